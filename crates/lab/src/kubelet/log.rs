//! A container's log in the format of the container runtime interface: one line per line of output, with the time,
//! the stream and whether the line is whole.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;

use super::error::Error;

/// One of a container's two output streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    /// Standard output; everything, where the container has a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A longer line is cut into parts marked `P`.
const LONGEST_LINE: usize = 16 * 1024;

/// A file larger than this is put aside, and replaces the one put aside before.
const LARGEST_FILE: u64 = 10 * 1024 * 1024;

/// An open log.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    file: File,
    size: u64,
    /// Lines that have begun, of both streams.
    begun: [Vec<u8>; 2],
}

impl Log {
    /// Opens a log for appending; its folder is made if need be.
    pub(super) fn open(path: PathBuf) -> Result<Self, Error> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(Error::io("create folder", dir))?;
        }
        let file = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(Error::io("open", &path))?;
        let size = file.metadata().map(|metadata| metadata.len()).unwrap_or(0);
        Ok(Self {
            path,
            file,
            size,
            begun: Default::default(),
        })
    }

    /// Appends output; a line without its end waits for it.
    pub(super) fn write(&mut self, output: Output, data: &[u8]) -> std::io::Result<()> {
        let now = jiff::Timestamp::now();
        let begun = &mut self.begun[index(output)];
        let mut lines = Vec::with_capacity(data.len() + 64);
        for piece in data.split_inclusive(|byte| *byte == b'\n') {
            begun.extend_from_slice(piece);
            while begun.last() == Some(&b'\n') || begun.len() >= LONGEST_LINE {
                let whole = begun.len() <= LONGEST_LINE && begun.last() == Some(&b'\n');
                let end = begun.len().min(LONGEST_LINE);
                let rest = begun.split_off(end);
                line(
                    &mut lines,
                    now,
                    output,
                    whole,
                    begun.strip_suffix(b"\n").unwrap_or(begun),
                );
                *begun = rest;
            }
        }
        self.append(&lines)
    }

    /// Writes the lines that never ended.
    pub(super) fn close(&mut self) {
        for output in [Output::Stdout, Output::Stderr] {
            let begun = std::mem::take(&mut self.begun[index(output)]);
            if !begun.is_empty() {
                let mut text = Vec::new();
                line(&mut text, jiff::Timestamp::now(), output, false, &begun);
                self.append(&text).ok();
            }
        }
    }

    fn append(&mut self, text: &[u8]) -> std::io::Result<()> {
        self.file.write_all(text)?;
        self.size += text.len() as u64;
        if self.size > LARGEST_FILE {
            let mut old = self.path.clone().into_os_string();
            old.push(".old");
            std::fs::rename(&self.path, old)?;
            self.file = File::options().create(true).append(true).open(&self.path)?;
            self.size = 0;
        }
        Ok(())
    }
}

fn index(output: Output) -> usize {
    match output {
        Output::Stdout => 0,
        Output::Stderr => 1,
    }
}

fn line(to: &mut Vec<u8>, now: jiff::Timestamp, output: Output, whole: bool, text: &[u8]) {
    let stream = match output {
        Output::Stdout => "stdout",
        Output::Stderr => "stderr",
    };
    let mark = if whole { "F" } else { "P" };
    to.extend_from_slice(format!("{now:.9} {stream} {mark} ").as_bytes());
    to.extend_from_slice(text);
    to.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn format() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/0.log");
        let mut log = Log::open(path.clone()).unwrap();
        log.write(Output::Stdout, b"one\ntw").unwrap();
        log.write(Output::Stderr, b"err\n\n").unwrap();
        log.write(Output::Stdout, b"o\nrest").unwrap();
        log.close();
        let text = std::fs::read_to_string(&path).unwrap();
        let mut lines = Vec::new();
        for line in text.lines() {
            let (time, rest) = line.split_once(' ').unwrap();
            assert!(time.parse::<jiff::Timestamp>().is_ok() && time.len() == 30, "{time}");
            lines.push(rest);
        }
        assert_eq!(
            lines,
            [
                "stdout F one",
                "stderr F err",
                "stderr F ",
                "stdout F two",
                "stdout P rest"
            ]
        );
    }

    #[test]
    fn long_lines_are_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = Log::open(path.clone()).unwrap();
        log.write(Output::Stdout, &[b'x'; LONGEST_LINE + 5]).unwrap();
        log.write(Output::Stdout, b"\n").unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let parts: Vec<_> = text
            .lines()
            .map(|line| line.split_once(" stdout ").unwrap().1)
            .collect();
        assert_eq!(
            parts.iter().map(|part| part.len() - 2).collect::<Vec<_>>(),
            [LONGEST_LINE, 5]
        );
        assert!(parts[0].starts_with("P ") && parts[1].starts_with("F "));
    }
}
