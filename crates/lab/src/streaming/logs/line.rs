//! One line of a log in CRI format: `<RFC 3339 time> <stdout|stderr> <P|F> <text>`, `P` when the text goes on in
//! the next line.

use jiff::Timestamp;

/// Which of its two outputs the container wrote to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Stdout,
    Stderr,
}

/// Turns lines of the file into what the caller asked for.
#[derive(Debug)]
pub(super) struct Filter {
    timestamps: bool,
    since: Option<Timestamp>,
    source: Option<Source>,
    left: Option<u64>,
    inside_line: bool,
}

impl Filter {
    pub(super) fn new(timestamps: bool, since: Option<Timestamp>, source: Option<Source>, limit: Option<u64>) -> Self {
        Self {
            timestamps,
            since,
            source,
            left: limit,
            inside_line: false,
        }
    }

    /// The byte limit is reached.
    pub(super) fn is_full(&self) -> bool {
        self.left == Some(0)
    }

    /// Appends what is wanted of one line of the file. A line that is not in CRI format is passed over.
    pub(super) fn push(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let Some(line) = Line::parse(line) else { return };
        if self.source.is_some_and(|source| source != line.source) {
            return;
        }
        if let Some(since) = self.since
            && line.time.parse::<Timestamp>().is_ok_and(|time| time < since)
        {
            return;
        }
        if self.timestamps && !self.inside_line {
            self.write(line.time.as_bytes(), out);
            self.write(b" ", out);
        }
        self.write(line.text, out);
        if !line.partial {
            self.write(b"\n", out);
        }
        self.inside_line = line.partial;
    }

    fn write(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let length = match &mut self.left {
            None => bytes.len(),
            Some(left) => {
                let length = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                *left -= length as u64;
                length
            }
        };
        out.extend_from_slice(&bytes[..length]);
    }
}

struct Line<'a> {
    time: &'a str,
    source: Source,
    partial: bool,
    text: &'a [u8],
}

impl<'a> Line<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let mut fields = line.splitn(4, |byte| *byte == b' ');
        let time = std::str::from_utf8(fields.next()?).ok()?;
        let source = match fields.next()? {
            b"stdout" => Source::Stdout,
            b"stderr" => Source::Stderr,
            _ => return None,
        };
        // Tags may follow the first, after a colon; none is in use.
        let partial = match fields.next()?.first()? {
            b'P' => true,
            b'F' => false,
            _ => return None,
        };
        Some(Self {
            time,
            source,
            partial,
            text: fields.next().unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Filter, Source};

    const LOG: [&str; 5] = [
        "2026-01-02T03:04:05.000000001Z stdout F one",
        "2026-01-02T03:04:06.000000002Z stderr P tw",
        "2026-01-02T03:04:06.000000003Z stderr F o",
        "not a line",
        "2026-01-02T03:04:07.000000004Z stdout F ",
    ];

    fn run(mut filter: Filter) -> String {
        let mut out = Vec::new();
        for line in LOG {
            filter.push(format!("{line}\n").as_bytes(), &mut out);
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn joins_parts_and_passes_over_what_is_not_a_line() {
        assert_eq!(run(Filter::new(false, None, None, None)), "one\ntwo\n\n");
    }

    #[test]
    fn puts_a_time_before_each_whole_line() {
        assert_eq!(
            run(Filter::new(true, None, None, None)),
            "2026-01-02T03:04:05.000000001Z one\n2026-01-02T03:04:06.000000002Z two\n2026-01-02T03:04:07.000000004Z \n"
        );
    }

    #[test]
    fn keeps_one_source_what_is_new_enough_and_no_more_than_the_limit() {
        assert_eq!(run(Filter::new(false, None, Some(Source::Stderr), None)), "two\n");
        let since = "2026-01-02T03:04:06.000000002Z".parse().unwrap();
        assert_eq!(run(Filter::new(false, Some(since), None, None)), "two\n\n");
        assert_eq!(run(Filter::new(false, None, None, Some(5))), "one\nt");
    }

    proptest! {
        #[test]
        fn never_panics_and_never_exceeds_the_limit(line: Vec<u8>, text in "[ -~]{0,40}", limit in 0u64..64) {
            let mut filter = Filter::new(true, None, None, Some(limit));
            let mut out = Vec::new();
            filter.push(&line, &mut out);
            filter.push(format!("2026-01-02T03:04:05Z stdout F {text}\n").as_bytes(), &mut out);
            prop_assert!(out.len() as u64 <= limit);
        }
    }
}
