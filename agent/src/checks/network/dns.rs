//! The DNS question, and whether a message is an answer to it: pure.
//!
//! Any answer proves that the resolver works, also one that says there is no such name or no such record. The records
//! are checked to be complete; their contents are not decoded.

use std::fmt;

use hickory_proto::{
    op::{Header, HeaderCounts, MessageType, Metadata, OpCode, Query},
    rr::{Name, RecordType},
    serialize::binary::{BinDecodable, BinDecoder, BinEncodable, BinEncoder},
};

/// Parses an absolute name; `None` if the text is not a host name. hickory's own parser is not used, because it takes
/// any character that DNS can carry, and because it would bring IDNA into the binary.
pub(super) fn name(text: &str) -> Option<Name> {
    let text = text.strip_suffix('.').unwrap_or(text);
    if text.is_empty() {
        return Some(Name::root());
    }
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let labels = || text.split('.').map(str::as_bytes);
    if !labels().all(|label| !label.is_empty() && label.iter().copied().all(is_plain)) {
        return None;
    }
    let mut name = Name::from_labels(labels()).ok()?;
    name.set_fqdn(true);
    Some(name)
}

/// The question: the operator's name, else the domain of the cluster (its DNS answers for it without an upstream and
/// without any Service), else the nameservers of the root, which every resolver knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question(Query);

impl Question {
    pub(super) fn new(own: Option<&Name>, cluster_domain: Option<&str>) -> Self {
        let of_cluster = || cluster_domain.and_then(name);
        let name = own.cloned().or_else(of_cluster).unwrap_or_else(Name::root);
        // The root has no address record.
        let kind = if name.is_root() { RecordType::NS } else { RecordType::A };
        Self(Query::query(name, kind))
    }

    /// The query as a message. It has no EDNS, as from the C libraries: an answer above 512 bytes comes over TCP.
    pub(super) fn message(&self, id: u16) -> Option<Vec<u8>> {
        let mut metadata = Metadata::new(id, MessageType::Query, OpCode::Query);
        metadata.recursion_desired = true;
        let counts = HeaderCounts { queries: 1, ..HeaderCounts::default() };
        let mut bytes = Vec::with_capacity(64);
        let mut encoder = BinEncoder::new(&mut bytes);
        Header { metadata, counts }.emit(&mut encoder).ok()?;
        self.0.emit(&mut encoder).ok()?;
        Some(bytes)
    }
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.0.query_type() == RecordType::NS { "NS" } else { "A" };
        // The labels are ASCII: see [`name`].
        for label in self.0.name() {
            write!(f, "{}.", String::from_utf8_lossy(label))?;
        }
        write!(f, "{}{kind}", if self.0.name().is_root() { ". " } else { " " })
    }
}

/// What a received message is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// An answer.
    Answer,
    /// An answer that is cut off; the whole one has to be fetched over TCP.
    Truncated,
    /// The server refuses to answer, with this response code.
    Refusal(String),
    /// No answer to this question (late, forged or noise), and what it is instead.
    Unrelated(&'static str),
}

/// What these bytes are, where this question was sent with that id.
pub(super) fn judge(question: &Question, id: u16, bytes: &[u8]) -> Reply {
    const NOISE: Reply = Reply::Unrelated("what is no DNS message");
    let mut decoder = BinDecoder::new(bytes);
    let Ok(Header { metadata, counts }) = Header::read(&mut decoder) else { return NOISE };
    if metadata.id != id {
        return Reply::Unrelated("an answer with a wrong id");
    }
    if metadata.message_type != MessageType::Response || metadata.op_code != OpCode::Query {
        return Reply::Unrelated("what is no answer");
    }
    let asked = match counts.queries {
        0 => None,
        1 => match Query::read(&mut decoder) {
            Ok(query) => Some(query),
            Err(_) => return NOISE,
        },
        _ => return Reply::Unrelated("an answer to several questions"),
    };
    // A refusal may leave the question out.
    if asked.as_ref().is_some_and(|asked| *asked != question.0) {
        return Reply::Unrelated("an answer to another question");
    }
    let refusal = match metadata.response_code.low() {
        0 | 3 => None,
        1 => Some("FORMERR".to_owned()),
        2 => Some("SERVFAIL".to_owned()),
        4 => Some("NOTIMP".to_owned()),
        5 => Some("REFUSED".to_owned()),
        other => Some(format!("error {other}")),
    };
    match refusal {
        Some(refusal) => return Reply::Refusal(refusal),
        None if asked.is_none() => return Reply::Unrelated("an answer to no question"),
        // It may be cut off anywhere: some servers count the records that did not fit.
        None if metadata.truncation => return Reply::Truncated,
        None => {}
    }
    let records =
        u32::from(counts.answers) + u32::from(counts.authorities) + u32::from(counts.additionals);
    for _ in 0..records {
        if skip_record(&mut decoder).is_none() {
            return Reply::Unrelated("a damaged answer");
        }
    }
    Reply::Answer
}

/// Skips a record: its name, type, class, lifetime and data.
fn skip_record(decoder: &mut BinDecoder<'_>) -> Option<()> {
    Name::read(decoder).ok()?;
    decoder.read_slice(8).ok()?;
    let length = decoder.read_u16().ok()?.unverified();
    decoder.read_slice(length.into()).ok()?;
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: u16 = 0x1234;

    /// An answer with these flags, these counts, and this after the header.
    fn answer(id: u16, flags: u16, counts: [u16; 4], rest: &[u8]) -> Vec<u8> {
        let mut bytes: Vec<u8> = [&[id, flags][..], &counts]
            .concat()
            .iter()
            .flat_map(|word| word.to_be_bytes())
            .collect();
        bytes.extend(rest);
        bytes
    }

    fn question() -> Question {
        Question::new(name("a.Example").as_ref(), Some("cluster.local"))
    }

    #[test]
    fn the_question_is_the_operator_s_name_or_the_cluster_s_domain() {
        let own = name("x.example");
        for (own, domain, expected) in [
            (own.as_ref(), Some("cluster.local"), "x.example. A"),
            (own.as_ref(), None, "x.example. A"),
            (None, Some("cluster.local"), "cluster.local. A"),
            (None, None, ". NS"),
            (name(".").as_ref(), None, ". NS"),
            (None, Some("no name"), ". NS"),
        ] {
            assert_eq!(Question::new(own, domain).to_string(), expected);
        }
        let message = question().message(ID).unwrap();
        // Recursion desired, one question.
        assert_eq!(message[..12], [0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(message[12..], *b"\x01a\x07Example\0\0\x01\0\x01");
    }

    #[test]
    fn messages_are_told_apart() {
        use Reply::{Answer, Refusal, Truncated, Unrelated};
        let refusal = |code: &str| Refusal(code.into());
        let asked = b"\x01a\x07example\0\0\x01\0\x01";
        let other = b"\x01b\x07example\0\0\x01\0\x01";
        let other_kind = b"\x01a\x07example\0\0\x1c\0\x01";
        let record = b"\xc0\x0c\0\x01\0\x01\0\0\0\x0a\0\x04\x0a\0\0\x01";
        let full = [&asked[..], record, record].concat();
        let noise = Unrelated("what is no DNS message");
        for (bytes, expected) in [
            (answer(ID, 0x8180, [1, 0, 0, 0], asked), Answer),
            (answer(ID, 0x8180, [1, 1, 1, 0], &full), Answer),
            // NXDOMAIN, and an answer without recursion.
            (answer(ID, 0x8183, [1, 0, 0, 0], asked), Answer),
            (answer(ID, 0x8000, [1, 0, 0, 0], asked), Answer),
            // Bytes after the message are ignored.
            (answer(ID, 0x8180, [1, 0, 0, 0], &full), Answer),
            (answer(ID, 0x8380, [1, 0, 0, 0], asked), Truncated),
            // It counts records that did not fit, or is cut off within a record.
            (answer(ID, 0x8380, [1, 20, 0, 0], &full[..30]), Truncated),
            (answer(ID, 0x8181, [0, 0, 0, 0], b""), refusal("FORMERR")),
            (answer(ID, 0x8182, [1, 0, 0, 0], asked), refusal("SERVFAIL")),
            (answer(ID, 0x8182, [0, 0, 0, 0], b""), refusal("SERVFAIL")),
            (answer(ID, 0x8382, [1, 0, 0, 0], asked), refusal("SERVFAIL")),
            (answer(ID, 0x8184, [1, 0, 0, 0], asked), refusal("NOTIMP")),
            (answer(ID, 0x8185, [1, 0, 0, 0], asked), refusal("REFUSED")),
            (answer(ID, 0x8189, [1, 0, 0, 0], asked), refusal("error 9")),
            (answer(ID + 1, 0x8180, [1, 0, 0, 0], asked), Unrelated("an answer with a wrong id")),
            (answer(ID + 1, 0x8182, [1, 0, 0, 0], asked), Unrelated("an answer with a wrong id")),
            (answer(ID, 0x0100, [1, 0, 0, 0], asked), Unrelated("what is no answer")),
            (answer(ID, 0xa800, [1, 0, 0, 0], asked), Unrelated("what is no answer")),
            (answer(ID, 0x8180, [1, 0, 0, 0], other), Unrelated("an answer to another question")),
            (answer(ID, 0x8182, [1, 0, 0, 0], other), Unrelated("an answer to another question")),
            (
                answer(ID, 0x8180, [1, 0, 0, 0], other_kind),
                Unrelated("an answer to another question"),
            ),
            (answer(ID, 0x8180, [0, 0, 0, 0], b""), Unrelated("an answer to no question")),
            (answer(ID, 0x8180, [2, 0, 0, 0], asked), Unrelated("an answer to several questions")),
            (answer(ID, 0x8180, [1, 3, 0, 0], &full), Unrelated("a damaged answer")),
            (
                answer(ID, 0x8180, [1, 2, 0, 0], &full[..full.len() - 1]),
                Unrelated("a damaged answer"),
            ),
            // A name that points at itself.
            (answer(ID, 0x8180, [1, 0, 0, 0], b"\xc0\x0c\0\x01\0\x01"), noise.clone()),
            (answer(ID, 0x8180, [1, 0, 0, 0], &asked[..5]), noise.clone()),
            (Vec::new(), noise.clone()),
            (b"HTTP/1.1".to_vec(), noise.clone()),
        ] {
            assert_eq!(judge(&question(), ID, &bytes), expected, "{bytes:02x?}");
        }
    }

    proptest! {
        #[test]
        fn no_message_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            judge(&question(), ID, &bytes);
        }

        #[test]
        fn nor_does_one_with_a_good_head(counts in any::<[u16; 3]>(), rest in prop::collection::vec(any::<u8>(), 0..600)) {
            let asked = b"\x01a\x07example\0\0\x01\0\x01";
            let [answers, authorities, additionals] = counts;
            let rest = [&asked[..], &rest].concat();
            judge(&question(), ID, &answer(ID, 0x8180, [1, answers, authorities, additionals], &rest));
        }
    }
}
