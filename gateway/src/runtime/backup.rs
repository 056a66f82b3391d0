//! Copies of an image by the clock: when, under which names, and how many are kept.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use boxgate_scripting::schedule::Schedule;
use boxgate_storage::clock::UnixMillis;
use boxgate_storage::durable;
use jiff::Timestamp;

use super::image::{Image, open_file};

/// The moment in the name of a copy, UTC.
const MOMENT: &str = "%Y%m%dT%H%M%SZ";
const MOMENT_LENGTH: usize = "20240501T120000Z".len();
/// Copies of one second that find a name.
const AT_ONCE: u32 = 1_000;
const MINUTE: i64 = 60_000;
const SECOND: i64 = 1_000;

/// A frequency: a crontab line of five fields, of six with seconds first, or one of the words that stand for one.
#[derive(Debug, Clone)]
pub struct Frequency {
    /// In each minute that is due.
    seconds: Vec<i64>,
    minutes: Schedule,
}

impl Frequency {
    /// Reads a frequency, in a time zone.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str, zone: &str) -> Result<Self, String> {
        let text = text.trim();
        let (seconds, minutes) = match text.to_ascii_lowercase().as_str() {
            "@yearly" | "@annually" => ("0", "0 0 1 1 *"),
            "@monthly" => ("0", "0 0 1 * *"),
            "@weekly" => ("0", "0 0 * * 0"),
            "@daily" | "@midnight" => ("0", "0 0 * * *"),
            "@hourly" => ("0", "0 * * * *"),
            "@every_minute" => ("0", "* * * * *"),
            "@every_second" => ("*", "* * * * *"),
            word if word.starts_with('@') => {
                return Err(format!(
                    "{text:?} is none of @yearly, @annually, @monthly, @weekly, @daily, @midnight, @hourly, \
                     @every_minute and @every_second"
                ));
            }
            _ => match text.split_whitespace().count() {
                5 => ("0", text),
                6 => text.split_once(char::is_whitespace).unwrap_or(("0", text)),
                n => {
                    return Err(format!(
                        "{text:?} has {n} fields; expected 5, or 6 with seconds first"
                    ));
                }
            },
        };
        Ok(Self {
            seconds: seconds_of(seconds).ok_or_else(|| format!("{seconds:?} are no seconds"))?,
            minutes: Schedule::parse(&format!("{minutes} {zone}"))?,
        })
    }

    /// The first moment after `now`.
    pub fn next(&self, now: UnixMillis) -> Option<UnixMillis> {
        let minute = now.0.div_euclid(MINUTE) * MINUTE;
        let within = |minute: i64| self.seconds.iter().map(move |s| minute + s * SECOND);
        if self.minutes.next(minute - 1) == Some(minute)
            && let Some(moment) = within(minute).find(|moment| *moment > now.0)
        {
            return Some(UnixMillis(moment));
        }
        let minute = self.minutes.next(minute)?;
        within(minute).next().map(UnixMillis)
    }
}

/// A field of seconds: `*`, numbers, ranges, steps, and lists of them.
fn seconds_of(field: &str) -> Option<Vec<i64>> {
    let mut seconds = std::collections::BTreeSet::new();
    for item in field.split(',') {
        let (range, step) = match item.split_once('/') {
            Some((range, step)) => (range, step.parse().ok().filter(|step| *step > 0)?),
            None => (item, 1),
        };
        let (first, last) = match range.split_once('-') {
            _ if range == "*" => (0, 59),
            Some((first, last)) => (first.parse().ok()?, last.parse().ok()?),
            None if step > 1 => (range.parse().ok()?, 59),
            None => (range.parse().ok()?, range.parse().ok()?),
        };
        if !(0..=59).contains(&first) || !(first..=59).contains(&last) {
            return None;
        }
        seconds.extend((first..=last).step_by(step));
    }
    Some(seconds.into_iter().collect())
}

/// Copies an image as it is now, then removes all but the `keep` newest copies (0 keeps all); where the copy is, `None`
/// where there is no image. Blocking.
///
/// # Errors
/// When the copy is not made, and then nothing is removed; when one cannot be removed.
pub fn copy(
    image: &Image,
    directory: &Path,
    keep: usize,
    now: UnixMillis,
) -> io::Result<Option<PathBuf>> {
    let mut source = match open_file(image.path()) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let length = source.metadata()?.len();
    let name = image.file_name();
    copy_from(&mut source, (&name, length), directory, keep, now).map(Some)
}

/// The same for what is read elsewhere: an image of that name and so many bytes. Blocking.
///
/// # Errors
/// As [`copy`].
pub fn copy_from(
    source: &mut impl io::Read,
    (name, length): (&str, u64),
    directory: &Path,
    keep: usize,
    now: UnixMillis,
) -> io::Result<PathBuf> {
    durable::make_directory(directory, 0o750)?;
    let prefix = format!(".{name}.backup");
    // One copy is made at a time: what another left was cut by a crash.
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with(&prefix)) {
            fs::remove_file(entry.path())?;
        }
    }
    let mut file = tempfile::Builder::new()
        .prefix(&prefix)
        .tempfile_in(directory)?;
    if io::copy(source, &mut file)? < length {
        return Err(io::Error::other(
            "the image was cut short while it was copied",
        ));
    }
    file.as_file().sync_all()?;
    let moment = Timestamp::from_millisecond(now.0).map_err(io::Error::other)?;
    let names = Names::of(name);
    let mut path = file.into_temp_path();
    for nth in 0..AT_ONCE {
        let wanted = directory.join(names.name(moment, nth));
        match path.persist_noclobber(&wanted) {
            Ok(()) => {
                File::open(directory)?.sync_all()?;
                prune(directory, &names, keep)?;
                return Ok(wanted);
            }
            Err(e) if e.error.kind() == io::ErrorKind::AlreadyExists => path = e.path,
            Err(e) => return Err(e.error),
        }
    }
    Err(io::Error::other("there is no name left for this second"))
}

fn prune(directory: &Path, names: &Names, keep: usize) -> io::Result<()> {
    if keep == 0 {
        return Ok(());
    }
    let mut copies = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if let Some(age) = entry.file_name().to_str().and_then(|name| names.read(name)) {
            copies.push((age, entry.path()));
        }
    }
    copies.sort_unstable_by(|(one, _), (other, _)| other.cmp(one));
    for (_, path) in copies.into_iter().skip(keep) {
        fs::remove_file(path)?;
    }
    Ok(())
}

/// The names of an image's copies: `{stem}-{moment}{extension}`, and `-1`, `-2` behind the moment for others of the same
/// second.
struct Names {
    stem: String,
    extension: String,
}

impl Names {
    fn of(name: &str) -> Self {
        let at = name.rfind('.').filter(|at| *at > 0).unwrap_or(name.len());
        let (stem, extension) = name.split_at(at);
        Self {
            stem: stem.to_owned(),
            extension: extension.to_owned(),
        }
    }

    fn name(&self, moment: Timestamp, nth: u32) -> String {
        let moment = moment.strftime(MOMENT);
        let nth = if nth == 0 {
            String::new()
        } else {
            format!("-{nth}")
        };
        format!("{}-{moment}{nth}{}", self.stem, self.extension)
    }

    /// How old a copy of that name is, as something that sorts; `None` for a file of somebody else's.
    fn read(&self, name: &str) -> Option<(String, u32)> {
        let rest = name.strip_prefix(&self.stem)?.strip_prefix('-')?;
        let rest = rest.strip_suffix(&self.extension)?;
        let (moment, nth) = rest.split_at_checked(MOMENT_LENGTH)?;
        let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        let is_moment = digits(&moment[..8])
            && moment.as_bytes()[8] == b'T'
            && digits(&moment[9..15])
            && moment.ends_with('Z');
        let nth = match nth {
            "" => 0,
            nth => nth
                .strip_prefix('-')
                .filter(|nth| digits(nth))?
                .parse()
                .ok()?,
        };
        is_moment.then(|| (moment.to_owned(), nth))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> UnixMillis {
        UnixMillis(text.parse::<Timestamp>().unwrap().as_millisecond())
    }

    fn next(frequency: &str, now: &str) -> String {
        let frequency = Frequency::parse(frequency, "UTC").unwrap();
        let next = frequency.next(at(now)).unwrap();
        Timestamp::from_millisecond(next.0).unwrap().to_string()
    }

    #[test]
    fn words_and_lines_stand_for_their_moments() {
        // A Wednesday.
        for (frequency, expected) in [
            ("@Midnight", "2024-05-02T00:00:00Z"),
            ("@daily", "2024-05-02T00:00:00Z"),
            ("@hourly", "2024-05-01T13:00:00Z"),
            ("@weekly", "2024-05-05T00:00:00Z"),
            ("@monthly", "2024-06-01T00:00:00Z"),
            ("@yearly", "2025-01-01T00:00:00Z"),
            ("@ANNUALLY", "2025-01-01T00:00:00Z"),
            ("@every_minute", "2024-05-01T12:01:00Z"),
            ("@every_second", "2024-05-01T12:00:31Z"),
            ("* * * * *", "2024-05-01T12:01:00Z"),
            ("*/15 * * * *", "2024-05-01T12:15:00Z"),
            ("0 0 * JAN,jun MON", "2024-06-03T00:00:00Z"),
            ("0 0 * * 7", "2024-05-05T00:00:00Z"),
            // Either matches.
            ("0 0 3 * SUN", "2024-05-03T00:00:00Z"),
            ("40 * * * * *", "2024-05-01T12:00:40Z"),
            ("5,10-20/5 * * * * *", "2024-05-01T12:01:05Z"),
            ("30 0 13 * * *", "2024-05-01T13:00:30Z"),
        ] {
            assert_eq!(
                next(frequency, "2024-05-01T12:00:30Z"),
                expected,
                "{frequency}"
            );
        }
        let there = Frequency::parse("@midnight", "Asia/Tokyo").unwrap();
        assert_eq!(
            there.next(at("2024-05-01T12:00:00Z")),
            Some(at("2024-05-01T15:00:00Z"))
        );
    }

    #[test]
    fn what_stands_for_none_is_said() {
        for frequency in [
            "",
            "@never",
            "@reboot",
            "* * * *",
            "61 * * * *",
            "60 * * * * *",
            "x * * * * *",
            "0 0 31 2 *",
        ] {
            assert!(Frequency::parse(frequency, "UTC").is_err(), "{frequency}");
        }
        assert!(Frequency::parse("@midnight", "Nowhere").is_err());
    }

    #[test]
    fn the_newest_copies_are_kept_and_nothing_else_is_touched() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("runtime.image.sbimg");
        let image = Image::open(&path).unwrap();
        let directory = home.path().join("Backups");
        let now = at("2024-05-01T12:00:00Z");
        assert_eq!(copy(&image, &directory, 3, now).unwrap(), None);
        fs::write(&path, "one").unwrap();
        let first = copy(&image, &directory, 3, now).unwrap().unwrap();
        assert_eq!(
            first,
            directory.join("runtime.image-20240501T120000Z.sbimg")
        );
        let foreign = [
            "runtime.image-20240501.sbimg",
            "other-20200501T120000Z.sbimg",
            "notes",
        ];
        fs::write(directory.join(".runtime.image.sbimg.backup12"), "half").unwrap();
        for name in foreign {
            fs::write(directory.join(name), name).unwrap();
        }
        fs::write(&path, "two").unwrap();
        assert_eq!(fs::read(&first).unwrap(), b"one");
        let same = copy(&image, &directory, 3, now).unwrap().unwrap();
        assert!(same.ends_with("runtime.image-20240501T120000Z-1.sbimg"));
        for minute in 1..=5 {
            copy(&image, &directory, 3, UnixMillis(now.0 + minute * MINUTE)).unwrap();
        }
        let mut left: Vec<_> = fs::read_dir(&directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        let mut expected: Vec<_> = (3..=5)
            .map(|minute| format!("runtime.image-20240501T120{minute}00Z.sbimg"))
            .chain(foreign.map(str::to_owned))
            .collect();
        expected.sort();
        assert_eq!(left, expected);
        copy(&image, &directory, 0, now).unwrap();
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 7);
    }
}
