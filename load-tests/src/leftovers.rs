//! What runs leave below `--dir`: directories with the number of their process behind their name.

use std::path::Path;

use crate::gateway;

/// What nobody looks at once its process is gone.
const OF_RUNS: [&str; 3] = ["against", "compare", "gateway"];
/// What is kept where something was wrong.
const KEPT: [&str; 5] = ["boxitory", "clouds", "full", "kill", "power"];

/// Removes what processes left that are no more. What cannot be removed is in nobody's way.
pub(crate) fn remove_dead(directory: &Path) {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    for path in entries.flatten().map(|entry| entry.path()) {
        if owner(&path).is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            let _stays = gateway::remove(&path);
        }
    }
}

/// The process that works there, by the name.
fn owner(path: &Path) -> Option<u32> {
    let (kind, pid) = path.file_name()?.to_str()?.rsplit_once('-')?;
    let pid = pid.parse().ok()?;
    OF_RUNS.contains(&kind).then_some(pid)
}

/// Removes what this process left after a run that went well.
pub(crate) fn remove_own(directory: &Path) {
    remove(directory, &OF_RUNS);
}

/// Removes all that this process left in the middle of something.
pub(crate) fn remove_cut(directory: &Path) {
    remove(directory, &OF_RUNS);
    remove(directory, &KEPT);
}

fn remove(directory: &Path, kinds: &[&str]) {
    for kind in kinds {
        let name = format!("{kind}-{}", std::process::id());
        let _stays = gateway::remove(&directory.join(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_dead_process_left_goes_and_all_else_stays() {
        let own = std::process::id();
        let directory = std::env::temp_dir().join(format!("leftovers-{own}"));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let dead = child.id();
        child.wait().unwrap();
        let names = [
            format!("gateway-{dead}"),
            format!("compare-{dead}"),
            format!("against-{dead}"),
            format!("kill-{dead}"),
            format!("gateway-{own}"),
            format!("full-{own}"),
            "against-target".to_owned(),
            "other".to_owned(),
        ];
        for name in &names {
            std::fs::create_dir_all(directory.join(name).join("data")).unwrap();
        }
        let left = || {
            let each = names.iter().filter(|name| directory.join(name).exists());
            each.map(String::as_str).collect::<Vec<_>>()
        };
        remove_dead(&directory);
        assert_eq!(left(), &names[3..]);
        remove_own(&directory);
        let (dead, full) = (names[3].as_str(), names[5].as_str());
        assert_eq!(left(), [dead, full, "against-target", "other"]);
        remove_cut(&directory);
        assert_eq!(left(), [dead, "against-target", "other"]);
        std::fs::remove_dir_all(&directory).unwrap();
        // One that is not there yet has nothing in it.
        remove_dead(&directory);
    }
}
