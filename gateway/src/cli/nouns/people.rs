//! What can be done with people, organizations and keys, over which call.

use super::How::{Delete, Get, GetPages, Post, Put};
use super::Kind::{Number, OneOf, Organization, Text};
use super::rows::{DESCRIPTION, PASSWORD, call, flag, needed};
use super::{Kind, Opt, Said, Told, Verb};

const PLATFORM_ROLES: Kind = OneOf(&["user", "admin"]);
const ROLES: Kind = OneOf(&["member", "admin", "owner"]);

const ORG: &str = "/api/organization/{org}";
const USER: &str = "/api/admin/users/{user}";

pub(super) const USERS: &[Verb] = &[
    Verb {
        told: Told::Table(&[
            ("ID", "/id"),
            ("USERNAME", "/username"),
            ("ROLE", "/role"),
            ("SUSPENDED", "/suspended"),
            ("E-MAIL", "/email"),
            ("CREATED", "/createdAt"),
        ]),
        ..call(GetPages, "list", "/api/admin/users", "List the accounts")
    },
    Verb {
        names: &["USER"],
        ..call(Get, "show", USER, "Show an account")
    },
    Verb {
        examples: "Examples:
  boxgate admin user create ann --password-file ann.password --organization acme --organization-role admin
  pwgen -s 24 1 | tee /dev/tty | boxgate admin user create bob --password-file -

An account without a password cannot sign in until `boxgate admin user password` gives it one.",
        names: &["USER"],
        said: &[("username", Said::Name("user"))],
        options: &[
            PASSWORD,
            flag("email", "email", Text, "E-mail address"),
            flag("role", "role", PLATFORM_ROLES, "On the platform [default: user]"),
            flag(
                "organization",
                "organization",
                Text,
                "An organization to be a member of",
            ),
            flag(
                "organization-role",
                "organization_role",
                ROLES,
                "As what [default: the organization's own default]",
            ),
        ],
        told: Told::Line("User {username} is made."),
        ..call(Post, "create", "/api/admin/users", "Make an account")
    },
    Verb {
        names: &["USER"],
        options: &[
            flag("name", "name", Text, "The person's name"),
            flag("email", "email", Text, "E-mail address"),
            flag("role", "role", PLATFORM_ROLES, "On the platform"),
        ],
        told: Told::Line("User {username} is changed."),
        ..call(Put, "update", USER, "Change an account")
    },
    Verb {
        examples: "Example:
  boxgate admin user password ann --password-file ann.password",
        names: &["USER"],
        options: &[needed(PASSWORD)],
        told: Told::Line("User {username} has that password; all its sessions are ended."),
        ..call(Put, "password", USER, "Give an account another password; it is signed out everywhere")
    },
    Verb {
        names: &["USER"],
        said: &[("suspended", Said::Is(true))],
        told: Told::Line("User {username} is suspended; all its sessions are ended."),
        ..call(Put, "disable", USER, "Suspend an account; it is signed out everywhere")
    },
    Verb {
        names: &["USER"],
        said: &[("suspended", Said::Is(false))],
        told: Told::Line("User {username} may sign in."),
        ..call(Put, "enable", USER, "Let a suspended account sign in again")
    },
    Verb {
        names: &["USER"],
        asks: Some("delete user {user} with its keys and tokens"),
        told: Told::Line("User {user} is deleted."),
        ..call(Delete, "delete", USER, "Delete an account")
    },
];

pub(super) const ORGANIZATIONS: &[Verb] = &[
    Verb {
        told: Told::Table(&[
            ("ID", "/id"),
            ("NAME", "/name"),
            ("ACCESS", "/access_mode"),
            ("BOXES", "/totalBoxes"),
            ("CREATED", "/createdAt"),
            ("DESCRIPTION", "/description"),
        ]),
        ..call(
            Get,
            "list",
            "/api/organization",
            "List the organizations, with how many boxes you may see",
        )
    },
    Verb {
        names: &["ORG"],
        ..call(Get, "show", ORG, "Show an organization")
    },
    Verb {
        names: &["ORG"],
        said: &[("organization", Said::Name("org"))],
        options: &[DESCRIPTION],
        told: Told::Line("Organization {name} is made; you own it."),
        ..call(
            Post,
            "create",
            "/api/organization",
            "Make an organization, owned by the caller",
        )
    },
    Verb {
        examples: "Example:
  boxgate admin organization update acme --name acme-labs",
        names: &["ORG"],
        options: &[
            flag(
                "name",
                "organization",
                Text,
                "Another name; its boxes are called by that from then on",
            ),
            DESCRIPTION,
            flag("email", "email", Text, "E-mail address"),
            flag("code", "org_code", Text, "A code of your own for it"),
        ],
        told: Told::Line("Organization {org} is changed."),
        ..call(Put, "update", ORG, "Change or rename an organization")
    },
    Verb {
        names: &["ORG"],
        options: &[
            needed(flag(
                "mode",
                "accessMode",
                OneOf(&["private", "invite_only", "request_to_join"]),
                "Who finds it",
            )),
            flag(
                "default-role",
                "defaultRole",
                OneOf(&["member", "admin"]),
                "What new members are",
            ),
        ],
        told: Told::Line("Organization {org} is {accessMode}; new members are {defaultRole}."),
        ..call(
            Put,
            "access",
            "/api/organization/{org}/access-mode",
            "Say who finds an organization, and what new members are",
        )
    },
    Verb {
        names: &["ORG"],
        asks: Some("delete organization {org} with all its boxes and ISO images"),
        told: Told::Line("Organization {org} is deleted."),
        ..call(
            Delete,
            "delete",
            ORG,
            "Delete an organization with all its boxes and ISO images",
        )
    },
];

pub(super) const MEMBERS: &[Verb] = &[
    Verb {
        names: &["ORG"],
        told: Told::Table(&[
            ("ID", "/id"),
            ("USERNAME", "/username"),
            ("ROLE", "/role"),
            ("JOINED", "/joinedAt"),
        ]),
        ..call(
            Get,
            "list",
            "/api/organization/{org}/users",
            "List the members",
        )
    },
    Verb {
        examples: "Example:
  boxgate admin member add acme ann --role admin",
        names: &["ORG", "USER"],
        options: &[flag(
            "role",
            "role",
            ROLES,
            "As what [default: the organization's own default]",
        )],
        told: Told::Line("User {username} is {role} of {org}."),
        ..call(
            Put,
            "add",
            "/api/organization/{org}/members/{user}",
            "Add a member, by name or id",
        )
    },
    Verb {
        names: &["ORG", "USER"],
        options: &[needed(flag("role", "role", ROLES, "As what"))],
        told: Told::Line("User {username} is {role} of {org}."),
        ..call(
            Put,
            "role",
            "/api/organization/{org}/members/{user}",
            "Change a member's role",
        )
    },
    Verb {
        names: &["ORG", "USER"],
        asks: Some("remove {user} from {org}"),
        told: Told::Line("User {user} is no member of {org} any more."),
        ..call(
            Delete,
            "remove",
            "/api/organization/{org}/members/{user}",
            "End a membership",
        )
    },
];

pub(super) const SERVICE_ACCOUNTS: &[Verb] = &[
    Verb {
        told: Told::Table(&[
            ("ID", "/id"),
            ("NAME", "/username"),
            ("ORGANIZATION", "/organization/name"),
            ("EXPIRES", "/expiresAt"),
            ("CREATED", "/createdAt"),
            ("DESCRIPTION", "/description"),
        ]),
        ..call(
            Get,
            "list",
            "/api/service-accounts",
            "List the caller's service accounts",
        )
    },
    Verb {
        examples: "Examples:
  boxgate admin service-account create --organization acme --description CI --days 90
  boxgate admin service-account create --organization acme --json | jq -r .token",
        options: &[
            needed(flag(
                "organization",
                "organizationId",
                Organization,
                "Where it acts",
            )),
            DESCRIPTION,
            flag(
                "days",
                "expirationDays",
                Number,
                "How long its key lives [default: for ever]",
            ),
        ],
        told: Told::Secret(
            "Service account {username} is made; its id is {id}.",
            "token",
        ),
        ..call(
            Post,
            "create",
            "/api/service-accounts",
            "Make a service account; its key is shown once",
        )
    },
    Verb {
        examples: "Example:
  boxgate admin service-account rotate 3 --overlap-s 3600 --yes",
        names: &["ID"],
        options: &[flag(
            "overlap-s",
            "overlap_s",
            Number,
            "For how many seconds the key before works on [default: 0]",
        )],
        asks: Some("replace the key of service account {id}"),
        told: Told::Secret("Service account {username} has a new key.", "token"),
        ..call(
            Post,
            "rotate",
            "/api/service-accounts/{id}/rotate",
            "Replace a key; the new one is shown once",
        )
    },
    Verb {
        names: &["ID"],
        asks: Some("revoke service account {id}"),
        told: Told::Line("Service account {id} is revoked."),
        ..call(
            Delete,
            "revoke",
            "/api/service-accounts/{id}",
            "Delete a service account and end its sessions",
        )
    },
];

pub(super) const TOKENS: &[Verb] = &[
    Verb {
        examples: "Example:
  export BOXGATE_TOKEN=$(boxgate admin token create ann --password-file ann.password --json | jq -r .token)",
        names: &["USER"],
        said: &[("user/login", Said::Name("user"))],
        options: &[
            needed(Opt {
                member: "user/password",
                ..PASSWORD
            }),
            Opt {
                member: "token/description",
                ..DESCRIPTION
            },
        ],
        told: Told::Secret("A token for {user} is made.", "token"),
        anyone: true,
        ..call(Post, "create", "/api/v2/authenticate", "Sign in: a token for name and password, shown once")
    },
    Verb {
        told: Told::Sheet,
        ..call(Get, "show", "/api/user", "Show whose token this is")
    },
    Verb {
        asks: Some("end the token that this call comes with"),
        told: Told::Line("The token is ended."),
        ..call(Delete, "end", "/api/v2/authenticate", "End the token that the call comes with")
    },
];
