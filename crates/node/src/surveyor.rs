//! Finds out about the node's situation: from the file that states it, and from what the kernel says of its power.
//!
//! Both are read whenever the digest is looked at; what is told is settled first (see [`littoral_control::settle`]).

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use littoral_control::settle::Settled;
use littoral_model::situation::{PowerSource, Situation, Stated};

/// Where Linux tells of batteries and plugs (Documentation/ABI/testing/sysfs-class-power).
const POWER_SUPPLIES: &str = "/sys/class/power_supply";
/// The largest file that is read.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// Finds out about the node's situation.
#[derive(Clone, Debug)]
pub(crate) struct Surveyor {
    file: PathBuf,
    supplies: PathBuf,
    /// What the file stated when it could last be read.
    stated: Stated,
    /// What was wrong with it, so that it is said once.
    complaint: Option<String>,
    settled: Settled,
}

impl Surveyor {
    /// Reads the file for the first time; there need not be one.
    ///
    /// # Errors
    /// When it cannot be understood: a node that does not know its region must not take data.
    pub(crate) fn new(file: PathBuf) -> anyhow::Result<Self> {
        let stated = read(&file).map_err(anyhow::Error::msg);
        let stated = stated.with_context(|| format!("the situation in {} cannot be read", file.display()))?;
        let (complaint, settled) = (None, Settled::default());
        Ok(Self { file, supplies: PathBuf::from(POWER_SUPPLIES), stated, complaint, settled })
    }

    /// What to tell of the node's situation; `now` is any clock that never goes back. What the file stated last holds on
    /// while it cannot be read. Blocks for as long as it takes to read a few small files.
    pub(crate) fn survey(&mut self, now: Duration) -> Situation {
        let found = match read(&self.file) {
            // A file that is being written may for a moment be empty, or not there at all.
            Ok(stated) if stated == Stated::default() && self.stated != stated => Err("it states nothing".to_owned()),
            found => found,
        };
        match found {
            Ok(stated) => {
                self.stated = stated;
                self.complaint = None;
            }
            Err(error) => {
                if self.complaint.as_ref() != Some(&error) {
                    let file = self.file.display();
                    tracing::warn!(%file, error, "the node's situation cannot be read; what it was before holds on");
                }
                self.complaint = Some(error);
            }
        }
        let now_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let measured = self.stated.clone().situation(power(&self.supplies));
        self.settled.take(now_ms, measured).clone()
    }
}

/// What a file states; without one, nothing.
fn read(file: &Path) -> Result<Stated, String> {
    match std::fs::metadata(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Stated::default()),
        Err(error) => return Err(error.to_string()),
        Ok(found) if found.len() > FILE_BYTES_MAX => return Err(format!("it has more than {FILE_BYTES_MAX} bytes")),
        Ok(_) => {}
    }
    Stated::parse(&std::fs::read_to_string(file).map_err(|error| error.to_string())?)
}

/// Whether the machine lives on its battery now.
pub(crate) fn is_on_battery() -> bool {
    power(Path::new(POWER_SUPPLIES)).0 == PowerSource::Battery
}

/// What the kernel says of the machine's power: its source, and how full its emptiest battery is, in percent. A machine of
/// which the kernel knows no battery is on the mains; where it does not say anything, nothing is known.
fn power(supplies: &Path) -> (PowerSource, Option<u8>) {
    let Ok(found) = std::fs::read_dir(supplies) else { return (PowerSource::Unknown, None) };
    let (mut percent, mut drains, mut online) = (None, false, false);
    for supply in found.flatten() {
        let text = |name: &str| std::fs::read_to_string(supply.path().join(name)).unwrap_or_default().trim().to_owned();
        // The batteries of mice and keyboards power nothing else.
        if text("scope") == "Device" {
            continue;
        }
        if text("type") != "Battery" {
            online |= text("online") == "1";
            continue;
        }
        drains |= text("status") == "Discharging";
        let capacity = text("capacity").parse().ok();
        percent = match (percent, capacity) {
            (Some(one), Some(other)) => Some(std::cmp::min::<u8>(one, other)),
            (one, other) => one.or(other),
        };
    }
    let source = if drains && !online { PowerSource::Battery } else { PowerSource::Mains };
    (source, percent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn supply(folder: &Path, name: &str, files: &[(&str, &str)]) {
        std::fs::create_dir_all(folder.join(name)).unwrap();
        for (file, text) in files {
            std::fs::write(folder.join(name).join(file), format!("{text}\n")).unwrap();
        }
    }

    #[test]
    fn the_kernel_tells_of_batteries_and_plugs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        assert_eq!(power(&path.join("none")), (PowerSource::Unknown, None));
        assert_eq!(power(path), (PowerSource::Mains, None));
        supply(
            path,
            "hidpp_battery_0",
            &[("type", "Battery"), ("scope", "Device"), ("capacity", "5"), ("status", "Discharging")],
        );
        assert_eq!(power(path), (PowerSource::Mains, None));
        supply(path, "BAT0", &[("type", "Battery"), ("capacity", "73"), ("status", "Discharging")]);
        assert_eq!(power(path), (PowerSource::Battery, Some(73)));
        supply(path, "BAT1", &[("type", "Battery"), ("capacity", "40"), ("status", "Not charging")]);
        assert_eq!(power(path), (PowerSource::Battery, Some(40)));
        supply(path, "AC", &[("type", "Mains"), ("online", "1")]);
        assert_eq!(power(path), (PowerSource::Mains, Some(40)));
    }

    #[test]
    fn a_file_that_changes_is_read_anew_and_one_that_is_broken_left_aside() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("situation.toml");
        let mut surveyor = Surveyor::new(file.clone()).unwrap();
        surveyor.supplies = folder.path().join("none");
        assert_eq!(surveyor.survey(Duration::ZERO), Situation::default());
        std::fs::write(&file, "region = \"eu-north\"\n[power]\nsource = \"battery\"\nbattery = \"80%\"\n").unwrap();
        let region = Some("eu-north".parse().unwrap());
        let told = surveyor.survey(Duration::from_secs(1));
        assert_eq!((&told.region, told.power.battery_percent), (&region, Some(80)));
        for broken in ["region = ", ""] {
            std::fs::write(&file, broken).unwrap();
            assert_eq!(surveyor.survey(Duration::from_secs(2)), told);
        }
        assert!(surveyor.complaint.is_some());
        std::fs::write(&file, "region = ").unwrap();
        // A node does not start with a file that it does not understand.
        assert!(Surveyor::new(file).is_err());
    }
}
