//! The bytes of an HTTP/2 client that no library would let a test send: frames of RFC 9113, header fields of RFC 7541
//! without compression.

/// The frame type `HEADERS`.
pub const HEADERS: u8 = 1;
/// The frame type `GOAWAY`.
pub const GOAWAY: u8 = 7;

/// The connection preface, and settings with this initial window for every stream, in bytes.
pub fn preface(window: u32) -> Vec<u8> {
    const INITIAL_WINDOW_SIZE: u16 = 4;
    let mut setting = INITIAL_WINDOW_SIZE.to_be_bytes().to_vec();
    setting.extend_from_slice(&window.to_be_bytes());
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &setting));
    bytes
}

/// A request; `ends` says whether it is complete, without a body to come.
pub fn request(
    stream: u32,
    method: &str,
    path: &str,
    more: &[(&str, &str)],
    ends: bool,
) -> Vec<u8> {
    let block = request_block(method, path, more);
    frame(HEADERS, END_HEADERS | if ends { END_STREAM } else { 0 }, stream, &block)
}

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// The beginning of a request whose header fields go on in [`continuation`] frames.
pub fn unfinished_request(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_STREAM, stream, &request_block("GET", path, &[]))
}

/// A frame with more header fields, which is not the last one.
pub fn continuation(stream: u32, block: &[u8]) -> Vec<u8> {
    frame(9, 0, stream, block)
}

/// The reset of a stream that is not needed any more.
pub fn reset(stream: u32) -> Vec<u8> {
    const CANCEL: u32 = 8;
    frame(3, 0, stream, &CANCEL.to_be_bytes())
}

/// A literal header field without indexing, with a new name (RFC 7541, section 6.2.2).
pub fn field(name: &str, value: &str) -> Vec<u8> {
    let mut block = vec![0];
    text(&mut block, name);
    text(&mut block, value);
    block
}

fn request_block(method: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let pseudo = [(":method", method), (":scheme", "http"), (":path", path), (":authority", "x")];
    pseudo.iter().chain(more).flat_map(|(name, value)| field(name, value)).collect()
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short frame");
    let mut bytes = length.to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn text(block: &mut Vec<u8>, text: &str) {
    let mut length = text.len();
    // An integer with a prefix of 7 bits (RFC 7541, section 5.1).
    if length < 127 {
        block.push(length.to_le_bytes()[0]);
    } else {
        block.push(127);
        length -= 127;
        while length >= 128 {
            block.push(length.to_le_bytes()[0] | 128);
            length >>= 7;
        }
        block.push(length.to_le_bytes()[0]);
    }
    block.extend(text.bytes());
}

/// The next frame's type, stream and payload, and the bytes behind it; none where the frame is not complete.
pub fn next(bytes: &[u8]) -> Option<(u8, u32, &[u8], &[u8])> {
    let (head, rest) = bytes.split_at_checked(9)?;
    let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
    let (payload, rest) = rest.split_at_checked(length)?;
    Some((head[3], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload, rest))
}
