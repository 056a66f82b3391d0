//! Which gateway `push` and `admin` talk to, and as whom: flag, then `BOXGATE_` variable, then the names
//! that the BoxVault guide gives its variables.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use super::settings::Secret;

/// What the command line says about it.
#[derive(Debug, Clone, Default)]
pub struct ConnectionFlags {
    /// `--url`.
    pub url: Option<String>,
    /// `--token`.
    pub token: Option<String>,
    /// `--client-id`.
    pub client_id: Option<String>,
    /// `--client-secret`.
    pub client_secret: Option<String>,
    /// `--cacert`.
    pub cacert: Option<PathBuf>,
    /// Whether the command also works for nobody in particular.
    pub anyone: bool,
}

/// Where to and as whom.
#[derive(Debug, Clone)]
pub struct Connection {
    /// `http://` or `https://` with a host, without a slash at the end.
    pub url: String,
    /// What is shown there.
    pub credential: Credential,
    /// Certificates of whom to trust, in place of the machine's.
    pub cacert: Option<PathBuf>,
}

/// What shows who is calling.
#[derive(Debug, Clone)]
pub enum Credential {
    /// A token, or the key of a service account alone.
    Token(Secret),
    /// The name of a service account and its key.
    ServiceAccount(String, Secret),
    /// Nothing: what is public needs no caller.
    Nobody,
}

const WHERE: &str =
    "say where the gateway is: --url http://HOST:PORT, or set BOXGATE_URL or BOXVAULT_URL";
const WHO: &str = "say who is calling: --token, or --client-id and --client-secret; or set \
    BOXGATE_TOKEN, or BOXGATE_CLIENT_ID and BOXGATE_CLIENT_SECRET";

const ASIDE: &str = "BOXVAULT_CLIENT_ID and BOXVAULT_CLIENT_SECRET are set, and count only where BOXVAULT_URL is \
    the gateway's address";

/// Reads what the flags leave open from the environment.
///
/// # Errors
/// One line that says what is missing or ambiguous.
pub fn connection(flags: &ConnectionFlags) -> Result<Connection, String> {
    connection_from(flags, std::env::vars_os())
}

/// As [`connection`], with the environment as a value.
///
/// # Errors
/// As [`connection`].
pub fn connection_from(
    flags: &ConnectionFlags,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Connection, String> {
    let environment: BTreeMap<String, String> = environment
        .into_iter()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| name.starts_with("BOXGATE_") || name.starts_with("BOXVAULT_"))
        .collect();
    // A variable that a script left empty says nothing.
    let variable = |name: &str| {
        let value = environment.get(name).filter(|value| !value.is_empty());
        value.cloned()
    };
    let guides = variable("BOXVAULT_URL")
        .map(|url| address(&url))
        .transpose();
    let url = flags.url.clone().or_else(|| variable("BOXGATE_URL"));
    let url = match url {
        Some(url) => address(&url)?,
        None => guides.clone()?.ok_or(WHERE)?,
    };
    // The guide's credentials belong to the guide's address: no other host gets to see them.
    let guided = guides.ok().flatten().as_ref() == Some(&url);
    let named = |name: &str| {
        let guides = || {
            guided
                .then(|| variable(&format!("BOXVAULT_{name}")))
                .flatten()
        };
        variable(&format!("BOXGATE_{name}")).or_else(guides)
    };
    let is_aside = !guided
        && ["BOXVAULT_CLIENT_ID", "BOXVAULT_CLIENT_SECRET"]
            .into_iter()
            .any(|name| variable(name).is_some());
    let service_account = |id, secret| {
        let found = service_account(id, secret);
        found.map_err(|why| {
            if is_aside {
                format!("{why}. {ASIDE}")
            } else {
                why
            }
        })
    };
    let credential = match &flags.token {
        Some(_) if flags.client_id.is_some() || flags.client_secret.is_some() => {
            return Err(
                "--token and --client-id or --client-secret are both given; give one".into(),
            );
        }
        Some(token) => Credential::Token(Secret::new(token)),
        None if flags.client_id.is_some() || flags.client_secret.is_some() => service_account(
            flags.client_id.clone().or_else(|| named("CLIENT_ID")),
            flags
                .client_secret
                .clone()
                .or_else(|| named("CLIENT_SECRET")),
        )?,
        None => match (variable("BOXGATE_TOKEN"), variable("BOXGATE_CLIENT_SECRET")) {
            (Some(_), Some(_)) => {
                return Err(
                    "BOXGATE_TOKEN and BOXGATE_CLIENT_SECRET are both set; unset one, or say --token"
                        .into(),
                );
            }
            (Some(token), None) => Credential::Token(Secret::new(token)),
            (None, _) => match (named("CLIENT_ID"), named("CLIENT_SECRET")) {
                (None, None) if flags.anyone => Credential::Nobody,
                (id, secret) => service_account(id, secret)?,
            },
        },
    };
    let cacert = flags.cacert.clone();
    Ok(Connection {
        url,
        credential,
        cacert: cacert.or_else(|| variable("BOXGATE_CACERT").map(PathBuf::from)),
    })
}

fn service_account(id: Option<String>, secret: Option<String>) -> Result<Credential, String> {
    match (id, secret) {
        (Some(id), Some(secret)) => Ok(Credential::ServiceAccount(id, Secret::new(secret))),
        // The key alone says whose it is.
        (None, Some(secret)) => Ok(Credential::Token(Secret::new(secret))),
        (Some(id), None) => Err(format!(
            "the key of service account {id:?} is missing: --client-secret or BOXGATE_CLIENT_SECRET"
        )),
        (None, None) => Err(WHO.into()),
    }
}

fn address(text: &str) -> Result<String, String> {
    let trimmed = text.trim().trim_end_matches('/');
    let uri: Option<http::Uri> = trimmed.parse().ok();
    let fits = uri.is_some_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.host().is_some_and(|host| !host.is_empty())
            && uri.authority().is_some_and(|a| !a.as_str().contains('@'))
            && uri.query().is_none()
    });
    if fits {
        Ok(trimmed.to_owned())
    } else {
        Err(format!(
            "{text:?} is no address: it looks like http://HOST:PORT"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The connection as `url kind secret`, or the complaint.
    fn found(flags: [&str; 4], environment: &[(&str, &str)]) -> String {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let [url, token, client_id, client_secret] = flags.map(some);
        let flags = ConnectionFlags {
            url,
            token,
            client_id,
            client_secret,
            cacert: None,
            anyone: false,
        };
        let environment = environment.iter().map(|(n, v)| (n.into(), v.into()));
        match connection_from(&flags, environment) {
            Ok(Connection {
                url, credential, ..
            }) => match credential {
                Credential::Token(token) => format!("{url} token {}", token.expose()),
                Credential::ServiceAccount(id, key) => format!("{url} {id}:{}", key.expose()),
                Credential::Nobody => format!("{url} nobody"),
            },
            Err(text) => text,
        }
    }

    #[test]
    fn flags_win_over_our_variables_and_those_over_the_guides() {
        let guide = [
            ("BOXVAULT_URL", "http://guide:1"),
            ("BOXVAULT_CLIENT_ID", "ci"),
            ("BOXVAULT_CLIENT_SECRET", "k1"),
        ];
        let ours = [
            ("BOXGATE_URL", "http://ours:2/"),
            ("BOXGATE_TOKEN", "t2"),
            ("BOXGATE_CLIENT_SECRET", ""),
        ];
        let both = [guide, ours].concat();
        assert_eq!(found([""; 4], &guide), "http://guide:1 ci:k1");
        assert_eq!(found([""; 4], &both), "http://ours:2 token t2");
        let url = "https://flag";
        assert_eq!(found([url, "t3", "", ""], &both), "https://flag token t3");
        assert_eq!(found([url, "", "me", "k3"], &both), "https://flag me:k3");
        assert_eq!(found([url, "", "", "k3"], &both), "https://flag token k3");
        let ours = [("BOXGATE_CLIENT_SECRET", "k2")];
        assert_eq!(found([url, "", "me", ""], &ours), "https://flag me:k2");
    }

    #[test]
    fn what_is_missing_or_said_twice_is_told() {
        assert_eq!(found([""; 4], &[]), WHERE);
        let url = "http://h:1";
        assert_eq!(found([url, "", "", ""], &[]), WHO);
        let guide = [
            ("BOXVAULT_URL", "http://other"),
            ("BOXVAULT_CLIENT_SECRET", "k"),
        ];
        let elsewhere = found([url, "", "", ""], &guide);
        // The guide's key is for the guide's address.
        assert_eq!(elsewhere, format!("{WHO}. {ASIDE}"));
        let half = found([url, "", "me", ""], &guide);
        assert!(
            half.contains("\"me\" is missing") && half.ends_with(ASIDE),
            "{half}"
        );
        assert_eq!(
            found(["http://other", "", "", ""], &guide),
            "http://other token k"
        );
        assert!(found([url, "t", "me", ""], &[]).contains("both given"));
        let both = [("BOXGATE_TOKEN", "t"), ("BOXGATE_CLIENT_SECRET", "k")];
        assert!(found([url, "", "", ""], &both).contains("both set"));
        assert!(found([url, "", "me", ""], &[]).contains("\"me\" is missing"));
    }

    #[test]
    fn an_address_has_a_scheme_and_a_host_and_no_password() {
        for (text, fits) in [
            ("http://h", true),
            ("https://h:3000/prefix", true),
            ("h:3000", false),
            ("ftp://h", false),
            ("http://", false),
            ("http://u:p@h", false),
            ("http://h/?a=b", false),
            ("", false),
        ] {
            assert_eq!(address(text).is_ok(), fits, "{text:?}");
        }
    }

    #[test]
    fn what_anyone_may_do_needs_no_credential_and_uses_one_that_is_there() {
        let found = |environment: &[(&str, &str)]| {
            let flags = ConnectionFlags {
                url: Some("http://h".into()),
                anyone: true,
                ..ConnectionFlags::default()
            };
            let environment = environment.iter().map(|(n, v)| (n.into(), v.into()));
            connection_from(&flags, environment).map(|found| found.credential)
        };
        assert!(matches!(found(&[]), Ok(Credential::Nobody)));
        let token = [("BOXGATE_TOKEN", "t")];
        assert!(matches!(found(&token), Ok(Credential::Token(_))));
        // Half of one is a mistake that would end in a puzzling 404.
        assert!(found(&[("BOXGATE_CLIENT_ID", "ci")]).is_err());
    }
}
