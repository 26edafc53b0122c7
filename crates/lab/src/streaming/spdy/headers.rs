//! SPDY's header blocks: name and value pairs, compressed in one zlib stream per direction and connection, primed
//! with a dictionary that the specification gives.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

use super::frame::Error;

/// Pairs of a lower-case name and a value.
pub(super) type Headers = Vec<(String, String)>;

/// No honest client comes near this: Kubernetes sends three short headers.
const LARGEST_BLOCK: usize = 64 << 10;

/// SPDY/3's dictionary, part one: names and values, each preceded by its length.
const WORDS: &[&str] = &[
    "options",
    "head",
    "post",
    "put",
    "delete",
    "trace",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-base",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-md5",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "retry-after",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "method",
    "get",
    "status",
    "200 OK",
    "version",
    "HTTP/1.1",
    "url",
    "public",
    "set-cookie",
    "keep-alive",
    "origin",
];

/// Part two: the rest as one text.
const TEXT: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden\
404 Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug \
Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,\
application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdch\
charset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

fn dictionary() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1500);
    for word in WORDS {
        bytes.extend((word.len() as u32).to_be_bytes());
        bytes.extend(word.as_bytes());
    }
    bytes.extend(TEXT.as_bytes());
    bytes
}

/// The direction towards the peer.
pub(super) struct Compressor(Compress);

impl Compressor {
    pub(super) fn new() -> Result<Self, Error> {
        let mut zlib = Compress::new(Compression::fast(), true);
        zlib.set_dictionary(&dictionary()).map_err(|_| Error::HeaderBlock)?;
        Ok(Self(zlib))
    }

    pub(super) fn block(&mut self, headers: &[(String, String)]) -> Result<Vec<u8>, Error> {
        let mut plain = (headers.len() as u32).to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend((text.len() as u32).to_be_bytes());
            plain.extend(text.as_bytes());
        }
        let mut block = Vec::with_capacity(plain.len() + 64);
        let start = self.0.total_in();
        loop {
            let done = (self.0.total_in() - start) as usize;
            self.0
                .compress_vec(&plain[done..], &mut block, FlushCompress::Sync)
                .map_err(|_| Error::HeaderBlock)?;
            if block.len() < block.capacity() {
                return Ok(block);
            }
            block.reserve(block.len());
        }
    }
}

/// The direction from the peer.
pub(super) struct Decompressor(Decompress);

impl Decompressor {
    pub(super) fn new() -> Self {
        Self(Decompress::new(true))
    }

    pub(super) fn headers(&mut self, block: &[u8]) -> Result<Headers, Error> {
        let mut plain = Vec::with_capacity(1024);
        let start = self.0.total_in();
        loop {
            let done = (self.0.total_in() - start) as usize;
            match self.0.decompress_vec(&block[done..], &mut plain, FlushDecompress::Sync) {
                Ok(_) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0.set_dictionary(&dictionary()).map_err(|_| Error::HeaderBlock)?;
                    continue;
                }
                Err(_) => return Err(Error::HeaderBlock),
            }
            if plain.len() < plain.capacity() {
                break;
            }
            if plain.len() >= LARGEST_BLOCK {
                return Err(Error::HeaderBlock);
            }
            plain.reserve(plain.len());
        }
        parse(&plain).ok_or(Error::HeaderBlock)
    }
}

fn parse(mut plain: &[u8]) -> Option<Headers> {
    fn number(plain: &mut &[u8]) -> Option<usize> {
        let (head, rest) = plain.split_first_chunk::<4>()?;
        *plain = rest;
        usize::try_from(u32::from_be_bytes(*head)).ok()
    }
    fn text(plain: &mut &[u8]) -> Option<String> {
        let length = number(plain)?;
        let (head, rest) = plain.split_at_checked(length)?;
        *plain = rest;
        String::from_utf8(head.to_vec()).ok()
    }
    let count = number(&mut plain)?;
    let mut headers = Headers::new();
    for _ in 0..count {
        headers.push((text(&mut plain)?, text(&mut plain)?));
    }
    Some(headers)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Compressor, Decompressor, dictionary};

    #[test]
    fn the_dictionary_is_the_one_every_client_has() {
        // Every SPDY/3 header stream begins with these bytes: a zlib header and the dictionary's Adler-32.
        let (mut a, mut b) = (1u32, 0u32);
        for byte in dictionary() {
            a = (a + u32::from(byte)) % 65521;
            b = (b + a) % 65521;
        }
        assert_eq!((b << 16) | a, 0xe3c6_a7c2, "length {}", dictionary().len());
        let block = Compressor::new().unwrap().block(&[]).unwrap();
        assert_eq!(block[2..6], [0xe3, 0xc6, 0xa7, 0xc2]);
    }

    proptest! {
        #[test]
        fn reads_back_what_it_wrote_block_after_block(
            blocks in prop::collection::vec(prop::collection::vec(("[a-z-]{1,20}", "\\PC{0,300}"), 0..8), 1..8)
        ) {
            let (mut writer, mut reader) = (Compressor::new().unwrap(), Decompressor::new());
            for headers in blocks {
                let block = writer.block(&headers).unwrap();
                prop_assert_eq!(reader.headers(&block).unwrap(), headers);
            }
        }

        #[test]
        fn survives_any_bytes(bytes: Vec<u8>, at in 0usize..64) {
            let _refused = Decompressor::new().headers(&bytes);
            let mut block = Compressor::new().unwrap().block(&[("streamtype".into(), "data".into())]).unwrap();
            let at = at % block.len();
            block[at] ^= 1;
            let _read_or_refused = Decompressor::new().headers(&block);
        }
    }
}
