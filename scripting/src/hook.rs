//! The table of hooks: what a plugin may define, and what boxgate promises about each call.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Where a call runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lane {
    /// Inline on the async worker; has no function that can wait.
    Fast,
    /// On a thread of its own, within `scripts.workers`; may do I/O.
    Work,
}

impl Lane {
    /// As manifests and signals write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Work => "work",
        }
    }
}

/// What is answered when a call fails, runs out of its limits or of its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// As if the plugin were absent.
    Open,
    /// The request is refused.
    Closed,
    /// Reads as `Open`, writes as `Closed`.
    ReadsOpen,
    /// The upload is held, and the call tried again.
    Held,
}

impl OnFailure {
    /// As status and reference write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closed => "closed",
            Self::ReadsOpen => "reads open, writes closed",
            Self::Held => "held",
        }
    }
}

/// How the answers of several plugins become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Combine {
    /// The first that answers decides, the rest are not asked.
    FirstAnswer,
    /// All must agree; the first refusal wins, maps merge and earlier keys win.
    AllAgree,
    /// All run.
    AllRun,
}

/// One phase that a script may join.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each row of HOOKS documents its hook")]
pub enum Hook {
    Route,
    Authorize,
    OnUploadStart,
    OnUploadComplete,
    OnDownload,
    OnDelete,
    OnResponse,
    OnEvent,
    Transform,
    WebhookIn,
    OnImageDeploy,
    OnImageDeployed,
    OnImagePush,
    OnSchedule,
    Meta,
    Catalog,
    Verify,
    ListKeys,
    CreateKey,
    GetKey,
    DeleteKey,
    ListServers,
    CreateServer,
    GetServer,
    CancelServer,
    InstallKey,
    RebootServer,
    RenameServer,
}

/// What is fixed about a hook.
#[derive(Debug)]
pub struct Row {
    /// Which.
    pub hook: Hook,
    /// The function that a plugin defines.
    pub name: &'static str,
    /// The names of its parameters.
    pub parameters: &'static [&'static str],
    /// Where it runs unless the manifest says `work`.
    pub lane: Lane,
    /// How long it may take.
    pub deadline: Duration,
    /// What happens when it fails.
    pub on_failure: OnFailure,
    /// Whether a manifest may turn `closed` into `open`.
    pub may_open: bool,
    /// How several plugins become one answer.
    pub combine: Combine,
    /// Whether this gateway calls it.
    pub called: bool,
    /// Whether it is one only in a plugin with `[provider]`; in any other it is a function like any other.
    pub of_provider: bool,
    /// What it may return.
    pub answers: &'static str,
    /// One line for people.
    pub doc: &'static str,
}

macro_rules! hooks {
    ($($hook:ident $name:literal($($parameter:literal),*) $lane:ident $deadline:literal ms, $failure:ident $($opens:ident)?,
       $combine:ident, $called:ident, $answers:literal, $doc:literal;)*) => {
        /// Every hook, in the order in which a request meets them.
        pub const HOOKS: &[Row] = &[$(Row {
            hook: Hook::$hook,
            name: $name,
            parameters: &[$($parameter),*],
            lane: Lane::$lane,
            deadline: Duration::from_millis($deadline),
            on_failure: OnFailure::$failure,
            may_open: hooks!(@opens $($opens)?),
            combine: Combine::$combine,
            called: hooks!(@called $called),
            of_provider: hooks!(@of_provider $called),
            answers: $answers,
            doc: $doc,
        }),*];
    };
    (@opens) => { false };
    (@opens may_open) => { true };
    (@called called) => { true };
    (@called reserved) => { false };
    (@called provider) => { true };
    (@of_provider provider) => { true };
    (@of_provider $other:ident) => { false };
}

hooks! {
    Route "route"("req") Fast 5 ms, ReadsOpen may_open, FirstAnswer, called, "(), a store's name, #{backend, rewrite, set, remove, cache, tags}, respond, redirect", "Where a request goes, before anyone is authenticated";
    Authorize "authorize"("req", "principal") Fast 5 ms, Closed, AllAgree, called, "(), allow(), #{rate}, deny(..)", "Narrows what the gateway itself allows";
    OnUploadStart "on_upload_start"("upload") Fast 5 ms, Closed may_open, AllAgree, called, "(), #{store, max_size, require_checksum, part_size, labels}, reject(..)", "Before the first byte of an upload is read";
    OnUploadComplete "on_upload_complete"("blob") Work 10_000 ms, Held, AllAgree, called, "(), #{labels}, quarantine(why), reject(..)", "Bytes are durable and verified, and not yet visible";
    OnDownload "on_download"("req", "blob") Fast 5 ms, Open, AllAgree, called, "(), #{set, remove, cache, rate_bps}, deny(..), redirect", "Before the first byte of a download";
    OnDelete "on_delete"("req", "blob") Fast 5 ms, Closed may_open, AllAgree, called, "(), deny(..)", "Before a file is deleted";
    OnResponse "on_response"("req", "res") Fast 2 ms, Open, AllRun, called, "(), #{set, remove}", "The head of an answer, before it is sent";
    OnEvent "on_event"("event") Work 5_000 ms, Open, AllRun, called, "(), drop(), #{data}, [deliver(..)]", "Something happened; told once it is durable, at least once, in order";
    Transform "transform"("event", "endpoint") Work 1_000 ms, Closed, FirstAnswer, called, "(), #{data, headers}, drop()", "One event for one webhook endpoint that names the plugin, once, before it is sent";
    WebhookIn "webhook_in"("req") Work 10_000 ms, Closed, FirstAnswer, called, "(), a map, respond", "A webhook came in whose sender is known, to the plugin that names it";
    OnImageDeploy "on_image_deploy"("req", "image") Work 10_000 ms, Closed, AllAgree, called, "(), reject(why)", "An image came whole, and is about to be put in place";
    OnImageDeployed "on_image_deployed"("event") Work 60_000 ms, Closed, AllRun, called, "()", "An image was put in place, and its runtime is to take it: where a runtime's `reload` is `script`";
    OnImagePush "on_image_push"("req", "push") Work 10_000 ms, Closed, AllAgree, called, "(), #{target}, deny(..)", "An image is about to be pushed";
    OnSchedule "on_schedule"("tick") Work 60_000 ms, Open, AllRun, called, "()", "A tick of the manifest's schedule, once for all nodes";
    Meta "meta"() Fast 5 ms, Closed, FirstAnswer, provider, "a map", "Provider: what the adapter is; called once, when the plugin is loaded";
    Catalog "catalog"("ctx") Work 60_000 ms, Closed, FirstAnswer, provider, "an array, fail(..)", "Provider: regions with their plans and sizes";
    Verify "verify"("ctx") Work 30_000 ms, Closed, FirstAnswer, provider, "(), fail(..)", "Provider: whether the credentials are good";
    ListKeys "list_keys"("ctx") Work 30_000 ms, Closed, FirstAnswer, provider, "an array, fail(..)", "Provider: the account's SSH keys";
    CreateKey "create_key"("ctx", "key") Work 30_000 ms, Closed, FirstAnswer, provider, "its id, fail(..)", "Provider: keeps an SSH key: #{name, key}";
    GetKey "get_key"("ctx", "id") Work 30_000 ms, Closed, FirstAnswer, provider, "#{id, name, public_key}, (), fail(..)", "Provider: one SSH key";
    DeleteKey "delete_key"("ctx", "id") Work 30_000 ms, Closed, FirstAnswer, provider, "(), fail(..)", "Provider: forgets an SSH key";
    ListServers "list_servers"("ctx") Work 30_000 ms, Closed, FirstAnswer, provider, "an array, fail(..)", "Provider: the account's servers";
    CreateServer "create_server"("ctx", "order") Work 30_000 ms, Closed, FirstAnswer, provider, "its id, fail(..)", "Provider: orders a server: #{name, region, size, ssh_key}; does not wait for it";
    GetServer "get_server"("ctx", "id") Work 30_000 ms, Closed, FirstAnswer, provider, "#{id, status, name, external_ip, internal_ip, tags}, (), fail(..)", "Provider: how a server stands";
    CancelServer "cancel_server"("ctx", "id") Work 30_000 ms, Closed, FirstAnswer, provider, "(), fail(..)", "Provider: gives a server up";
    InstallKey "install_key"("ctx", "id", "key") Work 30_000 ms, Closed, FirstAnswer, provider, "(), fail(..)", "Provider: puts an SSH key on a server: #{name, key}";
    RebootServer "reboot_server"("ctx", "id") Work 30_000 ms, Closed, FirstAnswer, provider, "(), fail(..)", "Provider: starts a server anew";
    RenameServer "rename_server"("ctx", "id", "name") Work 30_000 ms, Closed, FirstAnswer, provider, "(), fail(..)", "Provider: gives a server another name";
}

impl Hook {
    /// The hook's row.
    pub fn row(self) -> &'static Row {
        HOOKS
            .iter()
            .find(|row| row.hook == self)
            .expect("every hook has a row, which a test holds")
    }

    /// The function's name.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// The hook of a function's name.
    pub fn by_name(name: &str) -> Option<Self> {
        HOOKS.iter().find(|row| row.name == name).map(|r| r.hook)
    }
}

impl Hook {
    /// Whether its calls wait for a worker as long as it takes: no client waits for them.
    pub fn waits_its_turn(self) -> bool {
        matches!(
            self,
            Self::OnEvent | Self::OnSchedule | Self::Transform | Self::OnImageDeployed
        )
    }

    /// Whether it is a provider's function that does something, and has nothing to say of it.
    pub fn returns_nothing(self) -> bool {
        matches!(
            self,
            Self::Verify
                | Self::DeleteKey
                | Self::CancelServer
                | Self::InstallKey
                | Self::RebootServer
                | Self::RenameServer
        )
    }

    /// Whether it asks a cloud about one thing: many calls wait for that at once, and hold little meanwhile.
    pub fn asks_a_cloud(self) -> bool {
        let gathers = matches!(
            self,
            Self::Meta | Self::Catalog | Self::ListKeys | Self::ListServers
        );
        self.row().of_provider && !gathers
    }
}

impl Row {
    /// The function as a plugin writes it: `route(req)`.
    pub fn signature(&self) -> String {
        format!("{}({})", self.name, self.parameters.join(", "))
    }
}

/// The known name that is nearest to `name`, if one is near enough to be meant.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len() / 3).min(3))
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hook_has_one_row_under_one_name() {
        for row in HOOKS {
            assert_eq!(row.hook.row().name, row.name);
            assert_eq!(Hook::by_name(row.name), Some(row.hook));
            assert_eq!(HOOKS.iter().filter(|r| r.hook == row.hook).count(), 1);
        }
    }

    #[test]
    fn nearest_name_is_found_only_when_near() {
        let names = || HOOKS.iter().map(|row| row.name);
        assert_eq!(nearest("on_uplod_start", names()), Some("on_upload_start"));
        assert_eq!(nearest("on_downlaod", names()), Some("on_download"));
        assert_eq!(nearest("on_moonrise_over_sea", names()), None);
    }
}
