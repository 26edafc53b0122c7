//! Finds where the last lines of a file begin, reading from its end.

use std::io::SeekFrom;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncSeek, AsyncSeekExt as _};

const BLOCK: u64 = 16 << 10;

/// The offset at which the last `lines` complete lines begin; the end of the file for none.
pub(super) async fn start<F: AsyncRead + AsyncSeek + Unpin>(file: &mut F, lines: u64) -> std::io::Result<u64> {
    let end = file.seek(SeekFrom::End(0)).await?;
    if lines == 0 {
        return Ok(end);
    }
    let mut seen = 0;
    let mut upper = end;
    while upper > 0 {
        let lower = upper.saturating_sub(BLOCK);
        file.seek(SeekFrom::Start(lower)).await?;
        let mut block = Vec::with_capacity(BLOCK as usize);
        file.take(upper - lower).read_to_end(&mut block).await?;
        for (at, _) in block.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            // The newline that ends the line before the wanted ones.
            if seen == lines {
                return Ok(lower + at as u64 + 1);
            }
            seen += 1;
        }
        upper = lower;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::start;

    proptest! {
        #[test]
        fn agrees_with_splitting_the_whole(lines in prop::collection::vec("[a-z]{0,3000}", 0..40), wanted in 0u64..45) {
            let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
            let skipped = lines.len().saturating_sub(wanted as usize);
            let expected: usize = lines[..skipped].iter().map(|line| line.len() + 1).sum();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let found = runtime.block_on(start(&mut Cursor::new(text.as_bytes()), wanted)).unwrap();
            prop_assert_eq!(found, expected as u64);
        }
    }
}
