//! How much has to be free where: the defaults, and what `DISK_THRESHOLDS` makes of them. Pure.

use std::{
    fmt,
    path::{Component, Path, PathBuf},
    str::FromStr,
};

use crate::checks::disk_pressure::settings;

/// Pods' own files and volumes; like every default, looked at where it exists.
const KUBELET: &str = "/var/lib/kubelet";
/// Where images are, of containerd and of CRI-O, while no runtime has said so itself.
const IMAGES: [&str; 2] = ["/var/lib/containerd", "/var/lib/containers"];

/// So much of a filesystem has to be free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    mark: Mark,
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    /// Hundredths of a percent of its size.
    Share(u32),
    /// Bytes.
    Bytes(u64),
}

/// All of it, in hundredths of a percent.
const WHOLE: u32 = 100 * 100;

impl Limit {
    pub(super) fn percent(percent: u32) -> Self {
        Self::share(percent * 100)
    }

    fn share(hundredths: u32) -> Self {
        let (whole, rest) = (hundredths / 100, format!("{:02}", hundredths % 100));
        let rest = rest.trim_end_matches('0');
        let dot = if rest.is_empty() { "" } else { "." };
        Self { mark: Mark::Share(hundredths), text: format!("{whole}{dot}{rest}%") }
    }

    /// What that is of this size.
    pub(super) fn of(&self, size: u64) -> u64 {
        match self.mark {
            Mark::Share(share) => {
                let part = u128::from(size) * u128::from(share) / u128::from(WHOLE);
                u64::try_from(part).unwrap_or(u64::MAX)
            }
            Mark::Bytes(bytes) => bytes,
        }
    }

    /// The limit above which a filesystem that was below this one passes again: [`settings::DISK_MARGIN`] of the
    /// limit more, but no more than half of what there is above the limit, since nothing has more than its size.
    pub(super) fn to_pass_again(&self, size: u64) -> Self {
        match self.mark {
            Mark::Share(share) => {
                let more = (share / settings::DISK_MARGIN).min(WHOLE.saturating_sub(share) / 2);
                Self::share(share + more)
            }
            Mark::Bytes(bytes) => {
                let more = bytes / u64::from(settings::DISK_MARGIN);
                let bytes = bytes.saturating_add(more.min(size.saturating_sub(bytes) / 2));
                Self { mark: Mark::Bytes(bytes), text: super::judge::Size(bytes).to_string() }
            }
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A limit, and who set it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) limit: Limit,
    /// Not a default. Where several paths are on one filesystem, such a limit beats the defaults.
    pub(super) is_configured: bool,
}

/// A path to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) path: PathBuf,
    /// Named by the operator: then it is an error if it is not there.
    pub(super) is_configured: bool,
    pub(super) bytes: Rule,
    pub(super) inodes: Rule,
}

/// What `DISK_THRESHOLDS` says: entries with commas between them, of which empty ones mean nothing.
///
/// ```text
/// entry  = path ":" amount           so many bytes of the path's filesystem have to be free
///        | path ":inodes:" share     so many of its inodes
///        | "inodes:" share           so many inodes of every filesystem that has no such limit of its own
/// amount = share | number unit
/// share  = number "%"                0 to 100, with up to two decimals
/// unit   = Ki Mi Gi Ti | KiB MiB GiB TiB (powers of 1024) | k M G T | kB MB GB TB (powers of 1000)
/// ```
///
/// A path is absolute and may contain anything but a comma and control characters. One that is no default is added;
/// what is not said of it (inodes, say) is as for the kubelet's directory. A path may have a limit of each kind, in
/// two entries: `/data:20GiB,/data:inodes:2%`. A limit of zero is never fallen short of: `/:0%` switches `/` off.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Thresholds {
    /// Of the paths without a limit of their own.
    inodes: Option<Limit>,
    /// In the order of the text.
    paths: Vec<Own>,
}

/// What was said of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Own {
    path: PathBuf,
    bytes: Option<Limit>,
    inodes: Option<Limit>,
}

/// An entry that cannot be used; one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{entry:?}: {why}")]
pub struct BadThreshold {
    entry: String,
    why: Why,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Why {
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
    fn add(&mut self, entry: &str) -> Result<(), Why> {
        // From the right: a path may have colons, a limit has none.
        let (place, amount) = entry.rsplit_once(':').ok_or(Why::NoLimit)?;
        let (place, amount) = (place.trim_end(), amount.trim());
        let (path, is_inodes) = match place.strip_suffix("inodes") {
            Some("") => ("", true),
            Some(before) if before.ends_with(':') => (before[..before.len() - 1].trim_end(), true),
            Some(_) | None => (place, false),
        };
        if path.is_empty() && !(is_inodes && place == "inodes") {
            return Err(Why::NoLimit);
        }
        let limit = parse(amount)?;
        if is_inodes && !matches!(limit.mark, Mark::Share(_)) {
            return Err(Why::InodesInBytes);
        }
        let seat = if path.is_empty() {
            &mut self.inodes
        } else {
            let own = self.own(path)?;
            if is_inodes { &mut own.inodes } else { &mut own.bytes }
        };
        if seat.is_some() {
            return Err(Why::Twice);
        }
        *seat = Some(limit);
        Ok(())
    }

    fn own(&mut self, path: &str) -> Result<&mut Own, Why> {
        if !path.starts_with('/') {
            return Err(Why::Relative);
        }
        if path.contains(char::is_control) {
            return Err(Why::Control);
        }
        // Without a slash at the end, and the like.
        let path: PathBuf =
            Path::new(path).components().filter(|c| *c != Component::CurDir).collect();
        let known = self.paths.iter().position(|own| own.path == path);
        let at = match known {
            Some(at) => at,
            None if self.paths.len() == settings::DISK_PATHS => return Err(Why::TooManyPaths),
            None => {
                self.paths.push(Own { path, bytes: None, inodes: None });
                self.paths.len() - 1
            }
        };
        Ok(&mut self.paths[at])
    }

    /// Every path to look at, with its limits. `images` are the image filesystems, where a runtime has named them.
    pub(super) fn targets(&self, images: &[PathBuf]) -> Vec<Target> {
        let node = ["/", KUBELET].map(|path| (PathBuf::from(path), settings::DISK_NODE_PERCENT));
        let images: Vec<PathBuf> =
            if images.is_empty() { IMAGES.map(PathBuf::from).to_vec() } else { images.to_vec() };
        let images = images.into_iter().map(|path| (path, settings::DISK_IMAGE_PERCENT));
        let mut targets: Vec<Target> = Vec::new();
        for (path, percent) in node.into_iter().chain(images) {
            let target = self.target(path, percent);
            // An image filesystem has the stricter limit, and comes later.
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

fn parse(text: &str) -> Result<Limit, Why> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = (&text[..end], text[end..].trim_start());
    let not_a_number = || Why::NotANumber(text.to_owned());
    // Not what f64 takes besides: ".", "1e9", "inf".
    if !number.starts_with(|c: char| c.is_ascii_digit()) || number.ends_with('.') {
        return Err(not_a_number());
    }
    let value: f64 = number.parse().map_err(|_| not_a_number())?;
    let (base, power): (f64, _) = match unit {
        "" => return Err(Why::NoUnit(number.to_owned())),
        "%" if value > 100.0 => return Err(Why::TooMuch(text.to_owned())),
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
        other => return Err(Why::Unit(other.to_owned())),
    };
    let bytes = value * base.powi(power);
    // 8 EiB, the largest file offset.
    if bytes > 2_f64.powi(63) {
        return Err(Why::TooMany(text.to_owned()));
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and 2^63; a byte more or less does not matter"
    )]
    let bytes = bytes as u64;
    Ok(Limit { mark: Mark::Bytes(bytes), text: text.to_owned() })
}
