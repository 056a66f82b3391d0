//! The table of all things, and of what its rows are made.

use super::Kind::{File, Text};
use super::{How, Kind, Noun, Opt, Told, Verb};
use super::{catalog, people};

pub(super) const fn call(
    method: How,
    name: &'static str,
    path: &'static str,
    about: &'static str,
) -> Verb {
    Verb {
        name,
        about,
        examples: "",
        method,
        path,
        names: &[],
        said: &[],
        options: &[],
        asks: None,
        told: Told::Sheet,
        anyone: false,
    }
}

pub(super) const fn flag(
    flag: &'static str,
    member: &'static str,
    kind: Kind,
    help: &'static str,
) -> Opt {
    Opt {
        flag,
        member,
        kind,
        required: false,
        help,
    }
}

pub(super) const fn needed(option: Opt) -> Opt {
    Opt {
        required: true,
        ..option
    }
}

pub(super) const PASSWORD: Opt = flag(
    "password-file",
    "password",
    File,
    "File with the password; - reads it from standard input",
);
pub(super) const DESCRIPTION: Opt = flag("description", "description", Text, "A text for people");

/// What is meant by the words of a command line.
pub(super) fn meaning(name: &str) -> &'static str {
    match name {
        "ORG" => "Name of the organization",
        "ORG/BOX" => "The box, as acme/demo",
        "VERSION" => "The version, as 1.0.0",
        "PROVIDER" => "The provider, as virtualbox",
        "ARCH" => "The architecture, as amd64",
        "USER" => "Name of the user",
        _ => "Its id, as the list has it",
    }
}

pub(super) static NOUNS: &[Noun] = &[
    Noun {
        name: "user",
        about: "People's accounts",
        verbs: people::USERS,
    },
    Noun {
        name: "organization",
        about: "Organizations, to which boxes belong",
        verbs: people::ORGANIZATIONS,
    },
    Noun {
        name: "member",
        about: "Who belongs to an organization, and as what",
        verbs: people::MEMBERS,
    },
    Noun {
        name: "service-account",
        about: "Keys that act for the caller in one organization, in a CI say",
        verbs: people::SERVICE_ACCOUNTS,
    },
    Noun {
        name: "token",
        about: "Tokens of people",
        verbs: people::TOKENS,
    },
    Noun {
        name: "box",
        about: "Boxes; `boxgate push` brings what is in them",
        verbs: catalog::BOXES,
    },
    Noun {
        name: "version",
        about: "Versions of a box",
        verbs: catalog::VERSIONS,
    },
    Noun {
        name: "provider",
        about: "Providers that a version of a box is for",
        verbs: catalog::PROVIDERS,
    },
    Noun {
        name: "architecture",
        about: "Architectures that a provider of a version is there for",
        verbs: catalog::ARCHITECTURES,
    },
    Noun {
        name: "iso",
        about: "ISO images",
        verbs: catalog::ISOS,
    },
];
