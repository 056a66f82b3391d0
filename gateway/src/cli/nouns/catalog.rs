//! What can be done with boxes, what is below them, and ISO images, over which call.

use super::How::{Delete, Get, Post, Put};
use super::Kind::{Text, YesNo};
use super::rows::{DESCRIPTION, call, flag};
use super::{Opt, Said, Told, Verb};

const BOX: &str = "/api/organization/{org}/box/{box}";

pub(super) const BOXES: &[Verb] = &[
    Verb {
        names: &["ORG"],
        told: Told::Table(&[
            ("NAME", "/name"),
            ("VERSIONS", "/versions"),
            ("PUBLIC", "/isPublic"),
            ("LISTED", "/published"),
            ("MADE BY", "/user/username"),
            ("UPDATED", "/updatedAt"),
            ("DESCRIPTION", "/shortDescription"),
        ]),
        ..call(
            Get,
            "list",
            "/api/organization/{org}/box",
            "List the boxes of an organization that you may see",
        )
    },
    Verb {
        names: &["ORG/BOX"],
        ..call(
            Get,
            "show",
            BOX,
            "Show a box; --json has all below it, down to the files",
        )
    },
    Verb {
        names: &["ORG/BOX"],
        said: &[("name", Said::Name("box"))],
        options: &[DESCRIPTION, SHORT, PUBLIC, LISTED],
        told: Told::Line("Box {org}/{name} is made."),
        ..call(
            Post,
            "create",
            "/api/organization/{org}/box",
            "Make a box; `boxgate push` makes it, too",
        )
    },
    Verb {
        examples: "Examples:
  boxgate admin box update acme/demo --name example
  boxgate admin box update acme/demo --public true --listed false     for whoever knows its name",
        names: &["ORG/BOX"],
        options: &[
            flag("name", "name", Text, "Another name"),
            DESCRIPTION,
            SHORT,
            PUBLIC,
            LISTED,
        ],
        told: Told::Line("Box {org}/{name} is changed."),
        ..call(Put, "update", BOX, "Change or rename a box")
    },
    Verb {
        names: &["ORG/BOX"],
        said: &[("isPublic", Said::Is(true)), ("published", Said::Is(true))],
        told: Told::Line("Anyone may have {org}/{name}."),
        ..call(Put, "publish", BOX, "Let anyone find and read a box")
    },
    Verb {
        names: &["ORG/BOX"],
        said: &[("isPublic", Said::Is(false))],
        told: Told::Line("Only members of {org} may have {org}/{name}."),
        ..call(
            Put,
            "hide",
            BOX,
            "Let only members of its organization read a box",
        )
    },
    Verb {
        names: &["ORG/BOX"],
        asks: Some("delete box {org}/{box} with all its versions"),
        told: Told::Line("Box {org}/{box} is deleted."),
        ..call(Delete, "delete", BOX, "Delete a box with all its versions")
    },
];

const SHORT: Opt = flag(
    "short-description",
    "shortDescription",
    Text,
    "The same in one line",
);
const PUBLIC: Opt = flag("public", "isPublic", YesNo, "Whether anyone may read it");
const LISTED: Opt = flag(
    "listed",
    "published",
    YesNo,
    "Whether others than its maker find it in lists",
);

pub(super) const VERSIONS: &[Verb] = &[
    Verb {
        names: &["ORG/BOX"],
        told: Told::TableWithin(
            "/versions",
            &[
                ("VERSION", "/version"),
                ("STATUS", "/status"),
                ("FILES", "/providers"),
                ("CREATED", "/created_at"),
                ("DESCRIPTION", "/description"),
            ],
        ),
        ..call(
            Get,
            "list",
            "/api/v2/box/{org}/{box}",
            "List the versions of a box, the highest first",
        )
    },
    Verb {
        names: &["ORG/BOX", "VERSION"],
        ..call(
            Get,
            "show",
            "/api/v2/box/{org}/{box}/version/{version}",
            "Show a version",
        )
    },
    Verb {
        examples: "Example:
  boxgate admin version create acme/demo 2.0.0 --description 'with the new kernel'
  boxgate push demo.box acme/demo 2.0.0 virtualbox amd64
  boxgate admin version release acme/demo 2.0.0",
        names: &["ORG/BOX", "VERSION"],
        said: &[("version", Said::Name("version"))],
        options: &[DESCRIPTION],
        told: Told::Line("Version {version} of {org}/{box} is made, and not released yet."),
        ..call(
            Post,
            "create",
            "/api/v2/box/{org}/{box}/versions",
            "Make a version that is not released yet",
        )
    },
    Verb {
        names: &["ORG/BOX", "VERSION"],
        options: &[
            flag("name", "versionNumber", Text, "Another number"),
            DESCRIPTION,
            flag("release-notes", "releaseNotes", Text, "What is new in it"),
            flag(
                "deprecated",
                "deprecated",
                YesNo,
                "Whether others are to be preferred",
            ),
            flag("deprecation-reason", "deprecationReason", Text, "Why"),
        ],
        told: Told::Line("Version {version} of {org}/{box} is changed."),
        ..call(
            Put,
            "update",
            "/api/organization/{org}/box/{box}/version/{version}",
            "Change a version",
        )
    },
    Verb {
        names: &["ORG/BOX", "VERSION"],
        told: Told::Line("Version {version} of {org}/{box} is released."),
        ..call(
            Put,
            "release",
            "/api/v2/box/{org}/{box}/version/{version}/release",
            "List a version to Vagrant",
        )
    },
    Verb {
        names: &["ORG/BOX", "VERSION"],
        told: Told::Line("Version {version} of {org}/{box} is revoked."),
        ..call(
            Put,
            "revoke",
            "/api/v2/box/{org}/{box}/version/{version}/revoke",
            "List a version no more; its organization still may fetch it",
        )
    },
    Verb {
        names: &["ORG/BOX", "VERSION"],
        asks: Some("delete version {version} of {org}/{box}"),
        told: Told::Line("Version {version} of {org}/{box} is deleted."),
        ..call(
            Delete,
            "delete",
            "/api/organization/{org}/box/{box}/version/{version}",
            "Delete a version with its files",
        )
    },
];

const LEVEL: Told = Told::Table(&[
    ("NAME", "/name"),
    ("CREATED", "/createdAt"),
    ("DESCRIPTION", "/description"),
]);

pub(super) const PROVIDERS: &[Verb] = &[
    Verb {
        names: &["ORG/BOX", "VERSION"],
        told: LEVEL,
        ..call(
            Get,
            "list",
            "/api/organization/{org}/box/{box}/version/{version}/provider",
            "List the providers of a version",
        )
    },
    Verb {
        names: &["ORG/BOX", "VERSION", "PROVIDER"],
        asks: Some("delete provider {provider} of {org}/{box} {version}"),
        told: Told::Line("Provider {provider} of {org}/{box} {version} is deleted."),
        ..call(
            Delete,
            "delete",
            "/api/organization/{org}/box/{box}/version/{version}/provider/{provider}",
            "Delete a provider with its files",
        )
    },
];

pub(super) const ARCHITECTURES: &[Verb] = &[
    Verb {
        names: &["ORG/BOX", "VERSION", "PROVIDER"],
        told: LEVEL,
        ..call(
            Get,
            "list",
            "/api/organization/{org}/box/{box}/version/{version}/provider/{provider}/architecture",
            "List the architectures of a provider",
        )
    },
    Verb {
        names: &["ORG/BOX", "VERSION", "PROVIDER", "ARCH"],
        asks: Some("delete {arch} for {provider} of {org}/{box} {version}"),
        told: Told::Line("Architecture {arch} for {provider} of {org}/{box} {version} is deleted."),
        ..call(
            Delete,
            "delete",
            "/api/organization/{org}/box/{box}/version/{version}/provider/{provider}/architecture/{arch}",
            "Delete an architecture with its file",
        )
    },
];

const ISO: &str = "/api/organization/{org}/iso/{id}";

pub(super) const ISOS: &[Verb] = &[
    Verb {
        names: &["ORG"],
        told: Told::Table(&[
            ("ID", "/id"),
            ("NAME", "/name"),
            ("BYTES", "/size"),
            ("PUBLIC", "/isPublic"),
            ("DOWNLOADS", "/downloadCount"),
            ("CREATED", "/createdAt"),
        ]),
        ..call(
            Get,
            "list",
            "/api/organization/{org}/iso",
            "List the ISO images of an organization",
        )
    },
    Verb {
        names: &["ORG", "ID"],
        ..call(Get, "show", ISO, "Show an ISO image")
    },
    Verb {
        names: &["ORG", "ID"],
        options: &[
            flag("name", "name", Text, "Another name"),
            DESCRIPTION,
            PUBLIC,
        ],
        told: Told::Line("ISO image {name} is changed."),
        ..call(Put, "update", ISO, "Change or rename an ISO image")
    },
    Verb {
        names: &["ORG", "ID"],
        asks: Some("delete ISO image {id} of {org}"),
        told: Told::Line("ISO image {id} is deleted."),
        ..call(Delete, "delete", ISO, "Delete an ISO image")
    },
];
