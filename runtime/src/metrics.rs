//! Metrics: a table of descriptions for each program, and values that are collected when they are asked for.
//!
//! Names, units, labels and help are API. A program declares them once, with [`descriptions!`](crate::descriptions),
//! and a [`Collect`] that writes the values; [`Metrics`] answers a scrape. Everything is named `tocsin_*`.
//!
//! ```
//! use std::fmt;
//! use tocsin_runtime::metrics::{Collect, Encoder, Metrics, verify};
//!
//! tocsin_runtime::descriptions! {
//!     pub static DESCRIPTIONS;
//!     WATCHES = gauge "watches" ["resource"] "Open watches";
//!     WRITES = counter "writes" [] "Objects written";
//! }
//!
//! #[derive(Debug)]
//! struct Program;
//!
//! impl Collect for Program {
//!     fn collect(&self, encoder: &mut Encoder<'_>) -> fmt::Result {
//!         let mut watches = encoder.family(&WATCHES)?;
//!         watches.integer(&[("resource", "nodes")], 1)?;
//!         encoder.counter(&WRITES, 7)
//!     }
//! }
//!
//! let text = Metrics::new(Program).render().unwrap();
//! assert!(text.contains("tocsin_watches{resource=\"nodes\"} 1\n"));
//! assert!(text.contains("tocsin_writes_total 7\n"));
//! verify(&text, DESCRIPTIONS).unwrap();
//! ```

use std::fmt::{self, Debug};

use hyper::{HeaderMap, StatusCode, header};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder, text::encode},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

use crate::http::{Reply, error, reply};

/// The beginning of every name.
const PREFIX: &str = "tocsin";

/// One metric family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Description {
    /// Without `tocsin_`, and without the `_total` of a counter.
    pub name: &'static str,
    /// What its values are.
    pub kind: Kind,
    /// Names of the labels, in order.
    pub labels: &'static [&'static str],
    /// One line.
    pub help: &'static str,
}

/// What the values of a metric are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows; its name ends with `_total`.
    Counter,
    /// A value of now.
    Gauge,
}

impl Kind {
    /// The word for it in a scrape.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        }
    }
}

impl Description {
    /// The name in a scrape: `tocsin_kernel_events_total`.
    #[must_use]
    pub fn full_name(&self) -> String {
        let total = if self.kind == Kind::Counter { "_total" } else { "" };
        format!("{PREFIX}_{}{total}", self.name)
    }
}

/// Declares a program's metrics: a constant for each, and the table of all.
///
/// The first line names the table, with its visibility; each of the others is `CONSTANT = counter|gauge "name" ["label", …] "help";`.
#[macro_export]
macro_rules! descriptions {
    ($visibility:vis static $table:ident; $($constant:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(pub(crate) const $constant: $crate::metrics::Description = $crate::metrics::Description {
            name: $name,
            kind: $crate::descriptions!(@$kind),
            labels: &[$($label),*],
            help: $help,
        };)*
        /// Every metric of this program.
        $visibility static $table: &[$crate::metrics::Description] = &[$($constant),*];
    };
    (@counter) => { $crate::metrics::Kind::Counter };
    (@gauge) => { $crate::metrics::Kind::Gauge };
}

/// What a program's metrics are made of.
pub trait Collect: Debug + Send + Sync + 'static {
    /// Writes the value of every metric as it is now.
    fn collect(&self, encoder: &mut Encoder<'_>) -> fmt::Result;
}

/// Writes metric families.
#[derive(Debug)]
pub struct Encoder<'a>(DescriptorEncoder<'a>);

impl Encoder<'_> {
    /// Begins a family, for samples with labels.
    pub fn family<'a>(&'a mut self, described: &'a Description) -> Result<Family<'a>, fmt::Error> {
        let kind = match described.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
        };
        self.0.encode_descriptor(described.name, described.help, None, kind).map(Family)
    }

    /// A counter without labels.
    pub fn counter(&mut self, described: &Description, value: u64) -> fmt::Result {
        ConstCounter::new(value).encode(self.family(described)?.0)
    }

    /// A gauge without labels.
    pub fn integer(&mut self, described: &Description, value: impl TryInto<i64>) -> fmt::Result {
        ConstGauge::new(value.try_into().unwrap_or(i64::MAX)).encode(self.family(described)?.0)
    }

    /// A gauge without labels.
    pub fn float(&mut self, described: &Description, value: f64) -> fmt::Result {
        ConstGauge::new(value).encode(self.family(described)?.0)
    }

    /// A gauge without labels that is 1 or 0.
    pub fn flag(&mut self, described: &Description, value: bool) -> fmt::Result {
        self.integer(described, value)
    }
}

/// Writes the samples of one family, each with a value for every label of its description.
#[derive(Debug)]
pub struct Family<'a>(MetricEncoder<'a>);

impl Family<'_> {
    /// A sample of a counter.
    pub fn counter(&mut self, labels: &impl EncodeLabelSet, value: u64) -> fmt::Result {
        ConstCounter::new(value).encode(self.0.encode_family(labels)?)
    }

    /// A sample of a gauge.
    pub fn integer(
        &mut self,
        labels: &impl EncodeLabelSet,
        value: impl TryInto<i64>,
    ) -> fmt::Result {
        let value = value.try_into().unwrap_or(i64::MAX);
        ConstGauge::new(value).encode(self.0.encode_family(labels)?)
    }

    /// A sample of a gauge.
    pub fn float(&mut self, labels: &impl EncodeLabelSet, value: f64) -> fmt::Result {
        ConstGauge::new(value).encode(self.0.encode_family(labels)?)
    }

    /// A sample of a gauge that is 1 or 0.
    pub fn flag(&mut self, labels: &impl EncodeLabelSet, value: bool) -> fmt::Result {
        self.integer(labels, value)
    }
}

/// The metrics of a program.
#[derive(Debug)]
pub struct Metrics(Registry);

/// Has prometheus-client ask a program.
#[derive(Debug)]
struct Collected<C>(C);

impl<C: Collect> Collector for Collected<C> {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.0.collect(&mut Encoder(encoder))
    }
}

impl Metrics {
    /// The metrics that `program` collects.
    #[must_use]
    pub fn new(program: impl Collect) -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        registry.register_collector(Box::new(Collected(program)));
        Self(registry)
    }

    /// The values of now, as `OpenMetrics` text, which Prometheus reads as its own format too.
    pub fn render(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.0)?;
        Ok(text)
    }

    /// Answers a scrape with the type of text that its `Accept` prefers.
    #[must_use]
    pub fn reply(&self, headers: &HeaderMap) -> Reply {
        self.reply_with(headers, |_, _| Ok(()))
    }

    /// The same, with what `add` writes besides; it is told whether the text is `OpenMetrics`.
    pub fn reply_with(
        &self,
        headers: &HeaderMap,
        add: impl FnOnce(&mut String, bool) -> fmt::Result,
    ) -> Reply {
        let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
        let open = accept.is_some_and(|accept| accept.contains("application/openmetrics-text"));
        let content_type = if open {
            "application/openmetrics-text; version=1.0.0; charset=utf-8"
        } else {
            "text/plain; version=0.0.4; charset=utf-8"
        };
        let text = self.render().and_then(|mut text| add(&mut text, open).map(|()| text));
        match text {
            Ok(text) => reply(StatusCode::OK, content_type, text),
            Err(failed) => error(StatusCode::INTERNAL_SERVER_ERROR, &failed.to_string()),
        }
    }
}

/// Whether a scrape has a sample of every description, with its labels, and no other family; for tests. The error says
/// what is wrong.
pub fn verify(text: &str, descriptions: &[Description]) -> Result<(), String> {
    let families: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE tocsin_")?.split(' ').next())
        .collect();
    for described in descriptions {
        let name = described.full_name();
        let declared = families.iter().filter(|family| **family == described.name).count();
        if declared != 1 {
            return Err(format!("{name} is declared {declared} times"));
        }
        let sample = text
            .lines()
            .find_map(|line| line.strip_prefix(&name).filter(|rest| rest.starts_with([' ', '{'])));
        let sample = sample.ok_or_else(|| format!("{name} has no sample"))?;
        let labels = sample.strip_prefix('{').and_then(|rest| rest.split_once('}'));
        let labels: Vec<_> = labels
            .map_or("", |(labels, _)| labels)
            .split(',')
            .filter_map(|label| Some(label.split_once('=')?.0))
            .collect();
        if labels != described.labels {
            return Err(format!("{name} has the labels {labels:?}, not {:?}", described.labels));
        }
    }
    let is_described = |family: &&str| descriptions.iter().any(|one| one.name == *family);
    match families.iter().find(|family| !is_described(family)) {
        Some(family) => Err(format!("{PREFIX}_{family} is not described")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    descriptions! {
        static DESCRIPTIONS;
        OPEN = gauge "open" ["kind"] "Open things";
        AGE = gauge "age_seconds" [] "Age of the oldest";
        SEEN = counter "seen" [] "Things seen";
    }

    #[derive(Debug)]
    struct Program;

    impl Collect for Program {
        fn collect(&self, encoder: &mut Encoder<'_>) -> fmt::Result {
            let mut open = encoder.family(&OPEN)?;
            open.flag(&[("kind", "a")], true)?;
            open.integer(&[("kind", "b")], 3_usize)?;
            open.float(&[("kind", "c")], 0.5)?;
            encoder.float(&AGE, 1.5)?;
            encoder.counter(&SEEN, 9)
        }
    }

    #[test]
    fn values_are_written_as_described() {
        let text = Metrics::new(Program).render().unwrap();
        for line in [
            "# HELP tocsin_open Open things",
            "# TYPE tocsin_seen counter",
            "tocsin_open{kind=\"a\"} 1",
            "tocsin_open{kind=\"b\"} 3",
            "tocsin_open{kind=\"c\"} 0.5",
            "tocsin_age_seconds 1.5",
            "tocsin_seen_total 9",
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        verify(&text, DESCRIPTIONS).unwrap();
        assert_eq!(verify(&text, &[OPEN, AGE]).unwrap_err(), "tocsin_seen is not described");
        let other = Description { labels: &["x"], ..OPEN };
        assert!(verify(&text, &[other]).unwrap_err().contains("has the labels [\"kind\"]"));
        let other = Description { name: "other", ..OPEN };
        assert_eq!(verify(&text, &[other]).unwrap_err(), "tocsin_other is declared 0 times");
    }

    #[test]
    fn a_scrape_chooses_the_type() {
        let metrics = Metrics::new(Program);
        for (accept, expected) in [
            (None, "text/plain; version=0.0.4; charset=utf-8"),
            (Some("text/plain"), "text/plain; version=0.0.4; charset=utf-8"),
            (
                Some("application/openmetrics-text;version=1.0.0;q=0.6,text/plain;q=0.3"),
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
            ),
        ] {
            let accept = accept.map(|accept| (header::ACCEPT, HeaderValue::from_static(accept)));
            let reply = metrics.reply(&accept.into_iter().collect());
            assert_eq!(reply.headers()[header::CONTENT_TYPE], expected);
        }
    }
}
