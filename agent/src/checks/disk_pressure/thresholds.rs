//! How much has to be free on which filesystem: the defaults, and the entries of `DISK_THRESHOLDS`. Pure.

use std::{
    fmt,
    path::{Component, Path, PathBuf},
    str::FromStr,
};

use super::{settings, space::Size};

/// The directory of pods' own files and volumes. Like every default path, it counts where it exists.
const KUBELET: &str = "/var/lib/kubelet";
/// The image directories of containerd and of CRI-O, used until the runtime has said where its images are.
const IMAGES: [&str; 2] = ["/var/lib/containerd", "/var/lib/containers"];

/// How much of a filesystem has to be free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    value: Value,
    /// The value as the operator wrote it.
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    /// A share of the size, in hundredths of a percent.
    Share(u32),
    /// Bytes.
    Bytes(u64),
}

/// The whole size, in hundredths of a percent.
const WHOLE: u32 = 100 * 100;

impl Limit {
    pub(super) fn percent(percent: u32) -> Self {
        Self::share(percent * 100)
    }

    fn share(hundredths: u32) -> Self {
        let (whole, rest) = (hundredths / 100, format!("{:02}", hundredths % 100));
        let rest = rest.trim_end_matches('0');
        let dot = if rest.is_empty() { "" } else { "." };
        Self { value: Value::Share(hundredths), text: format!("{whole}{dot}{rest}%") }
    }

    /// The limit for a filesystem of this size: bytes or inodes.
    pub(super) fn of(&self, size: u64) -> u64 {
        match self.value {
            Value::Share(share) => {
                let part = u128::from(size) * u128::from(share) / u128::from(WHOLE);
                u64::try_from(part).unwrap_or(u64::MAX)
            }
            Value::Bytes(bytes) => bytes,
        }
    }

    /// The limit above which a filesystem that was below this one passes again. It is a fifth
    /// ([`settings::DISK_MARGIN`]) higher, but no more than halfway up to the size, so that it can be reached.
    pub(super) fn recovery(&self, size: u64) -> Self {
        match self.value {
            Value::Share(share) => {
                let more = (share / settings::DISK_MARGIN).min(WHOLE.saturating_sub(share) / 2);
                Self::share(share + more)
            }
            Value::Bytes(bytes) => {
                let more = bytes / u64::from(settings::DISK_MARGIN);
                let bytes = bytes.saturating_add(more.min(size.saturating_sub(bytes) / 2));
                Self { value: Value::Bytes(bytes), text: Size(bytes).to_string() }
            }
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A limit, and whether the operator set it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) limit: Limit,
    /// The operator set it. Where several paths are on one filesystem, such a limit beats the defaults.
    pub(super) is_configured: bool,
}

/// A path to sample, with its limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) path: PathBuf,
    /// The operator named it, so it has to exist.
    pub(super) is_configured: bool,
    pub(super) bytes: Rule,
    pub(super) inodes: Rule,
}

/// The value of `DISK_THRESHOLDS`: entries with commas between them. Empty entries are ignored.
///
/// ```text
/// entry  = path ":" amount           bytes that have to be free on the path's filesystem
///        | path ":inodes:" share     inodes that have to be free on it
///        | "inodes:" share           the same for every filesystem that has no such limit of its own
/// amount = share | number unit
/// share  = number "%"                0 to 100, with up to two decimals
/// unit   = Ki Mi Gi Ti | KiB MiB GiB TiB (powers of 1024) | k M G T | kB MB GB TB (powers of 1000)
/// ```
///
/// A path is absolute and may contain anything but a comma and control characters. A path that is no default is added;
/// a limit that it lacks (of inodes, say) is that of the kubelet's directory. A path may have a limit of each kind, in
/// two entries: `/data:20GiB,/data:inodes:2%`. A limit of zero never fails: `/:0%` switches `/` off.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Thresholds {
    /// The limit of inodes for paths without one of their own.
    inodes: Option<Limit>,
    /// The paths in the order of the text.
    paths: Vec<PathLimits>,
}

/// The limits that the operator set for one path.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PathLimits {
    path: PathBuf,
    bytes: Option<Limit>,
    inodes: Option<Limit>,
}

/// An entry that cannot be used; one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{entry:?}: {why}")]
pub struct BadThreshold {
    entry: String,
    why: Problem,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Problem {
    #[error("not path:limit or inodes:percent, such as /var/lib/kubelet:10% or inodes:5%")]
    NoLimit,
    #[error("the path does not begin with /")]
    Relative,
    #[error("the path has a control character")]
    Control,
    #[error("{0:?} is not a number with % or a unit, such as 10%, 20GiB or 500M")]
    NotANumber(String),
    #[error("{0:?} has no unit: write {0}% or {0}GiB, say")]
    NoUnit(String),
    #[error(
        "{0:?} is not a unit: there are %, KiB MiB GiB TiB, Ki Mi Gi Ti, k M G T and kB MB GB TB"
    )]
    Unit(String),
    #[error("{0} is more than 100%")]
    TooMuch(String),
    #[error("{0} is more bytes than any filesystem has")]
    TooMany(String),
    #[error("a limit of inodes is a percentage, such as 5%")]
    InodesInBytes,
    #[error("there is another limit of this kind for the same path")]
    Twice,
    #[error("more than {} paths", settings::DISK_PATHS)]
    TooManyPaths,
}

impl FromStr for Thresholds {
    type Err = BadThreshold;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut thresholds = Self::default();
        for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            thresholds.add(entry).map_err(|why| BadThreshold { entry: entry.to_owned(), why })?;
        }
        Ok(thresholds)
    }
}

impl Thresholds {
    fn add(&mut self, entry: &str) -> Result<(), Problem> {
        // Split at the last colon: a path may have colons, a limit has none.
        let (place, amount) = entry.rsplit_once(':').ok_or(Problem::NoLimit)?;
        let (place, amount) = (place.trim_end(), amount.trim());
        let (path, is_inodes) = match place.strip_suffix("inodes") {
            Some("") => ("", true),
            Some(before) if before.ends_with(':') => (before[..before.len() - 1].trim_end(), true),
            Some(_) | None => (place, false),
        };
        if path.is_empty() && !(is_inodes && place == "inodes") {
            return Err(Problem::NoLimit);
        }
        let limit = parse(amount)?;
        if is_inodes && !matches!(limit.value, Value::Share(_)) {
            return Err(Problem::InodesInBytes);
        }
        let slot = if path.is_empty() {
            &mut self.inodes
        } else {
            let own = self.limits_of(path)?;
            if is_inodes { &mut own.inodes } else { &mut own.bytes }
        };
        if slot.is_some() {
            return Err(Problem::Twice);
        }
        *slot = Some(limit);
        Ok(())
    }

    /// The entry for this path, which is added if there is none yet.
    fn limits_of(&mut self, path: &str) -> Result<&mut PathLimits, Problem> {
        if !path.starts_with('/') {
            return Err(Problem::Relative);
        }
        if path.contains(char::is_control) {
            return Err(Problem::Control);
        }
        // Drops a slash at the end, `/./` and doubled slashes.
        let path: PathBuf =
            Path::new(path).components().filter(|c| *c != Component::CurDir).collect();
        let known = self.paths.iter().position(|own| own.path == path);
        let at = match known {
            Some(at) => at,
            None if self.paths.len() == settings::DISK_PATHS => return Err(Problem::TooManyPaths),
            None => {
                self.paths.push(PathLimits { path, bytes: None, inodes: None });
                self.paths.len() - 1
            }
        };
        Ok(&mut self.paths[at])
    }

    /// Every path to sample, with its limits. `images` are the image filesystems, empty until a runtime has named them.
    pub(super) fn targets(&self, images: &[PathBuf]) -> Vec<Target> {
        let node = ["/", KUBELET].map(|path| (PathBuf::from(path), settings::DISK_NODE_PERCENT));
        let images: Vec<PathBuf> =
            if images.is_empty() { IMAGES.map(PathBuf::from).to_vec() } else { images.to_vec() };
        let images = images.into_iter().map(|path| (path, settings::DISK_IMAGE_PERCENT));
        let mut targets: Vec<Target> = Vec::new();
        for (path, percent) in node.into_iter().chain(images) {
            let target = self.target(path, percent);
            // A path that is also an image filesystem gets the image limit, which is stricter and comes later.
            targets.retain(|other| other.path != target.path);
            targets.push(target);
        }
        for own in &self.paths {
            if targets.iter().all(|target| target.path != own.path) {
                targets.push(self.target(own.path.clone(), settings::DISK_NODE_PERCENT));
            }
        }
        targets
    }

    fn target(&self, path: PathBuf, percent: u32) -> Target {
        let own = self.paths.iter().find(|own| own.path == path);
        let rule = |set: Option<&Limit>, percent| Rule {
            limit: set.cloned().unwrap_or_else(|| Limit::percent(percent)),
            is_configured: set.is_some(),
        };
        let inodes = own.and_then(|own| own.inodes.as_ref()).or(self.inodes.as_ref());
        Target {
            is_configured: own.is_some(),
            bytes: rule(own.and_then(|own| own.bytes.as_ref()), percent),
            inodes: rule(inodes, settings::DISK_INODES_PERCENT),
            path,
        }
    }
}

fn parse(text: &str) -> Result<Limit, Problem> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = (&text[..end], text[end..].trim_start());
    let not_a_number = || Problem::NotANumber(text.to_owned());
    // f64 would also take ".5", "1e9" and "inf".
    if !number.starts_with(|c: char| c.is_ascii_digit()) || number.ends_with('.') {
        return Err(not_a_number());
    }
    let value: f64 = number.parse().map_err(|_| not_a_number())?;
    let (base, power): (f64, _) = match unit {
        "" => return Err(Problem::NoUnit(number.to_owned())),
        "%" if value > 100.0 => return Err(Problem::TooMuch(text.to_owned())),
        "%" => {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "between 0 and 10,000"
            )]
            let hundredths = (value * 100.0).round() as u32;
            return Ok(Limit { text: text.to_owned(), ..Limit::share(hundredths) });
        }
        "Ki" | "KiB" => (1024.0, 1),
        "Mi" | "MiB" => (1024.0, 2),
        "Gi" | "GiB" => (1024.0, 3),
        "Ti" | "TiB" => (1024.0, 4),
        "k" | "kB" => (1000.0, 1),
        "M" | "MB" => (1000.0, 2),
        "G" | "GB" => (1000.0, 3),
        "T" | "TB" => (1000.0, 4),
        other => return Err(Problem::Unit(other.to_owned())),
    };
    let bytes = value * base.powi(power);
    // 8 EiB, the largest file offset.
    if bytes > 2_f64.powi(63) {
        return Err(Problem::TooMany(text.to_owned()));
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and 2^63; a byte more or less does not matter"
    )]
    let bytes = bytes as u64;
    Ok(Limit { value: Value::Bytes(bytes), text: text.to_owned() })
}
