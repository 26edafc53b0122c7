//! The sizes of the user's window, as the client sends them: JSON objects, one after another.

use serde::Deserialize;

use super::containers::WindowSize;
use super::pipe::Input;

/// A longer object is not a size.
const LONGEST: usize = 4 << 10;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u16,
    height: u16,
}

/// Reads sizes off a stream.
pub(super) struct Windows {
    input: Input,
    pending: Vec<u8>,
}

impl Windows {
    pub(super) fn new(input: Input) -> Self {
        let pending = Vec::new();
        Self { input, pending }
    }

    /// The next size; none when the client sends no more. What is not a size is passed over.
    pub(super) async fn next(&mut self) -> Option<WindowSize> {
        loop {
            if let Some(size) = self.take() {
                return Some(size);
            }
            self.pending.extend_from_slice(&self.input.recv().await?);
        }
    }

    fn take(&mut self) -> Option<WindowSize> {
        let mut sizes = serde_json::Deserializer::from_slice(&self.pending).into_iter::<Size>();
        let size = sizes.next()?;
        let read = sizes.byte_offset();
        match size {
            Ok(Size { width, height }) => {
                self.pending.drain(..read);
                Some(WindowSize { width, height })
            }
            Err(error) if error.is_eof() && self.pending.len() < LONGEST => None,
            Err(_) => {
                self.pending.clear();
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::sync::mpsc;

    use super::Windows;

    #[tokio::test]
    async fn reads_sizes_however_they_are_cut_and_passes_over_the_rest() {
        let (sender, input) = mpsc::channel(8);
        for piece in [
            "{\"Width\":80,\"Hei",
            "ght\":24}\n{\"Width\":1,\"Height\":2}",
            "what",
            "{\"Width\":3,\"Height\":4}",
        ] {
            sender.send(Bytes::from(piece)).await.unwrap();
        }
        drop(sender);
        let (mut windows, mut sizes) = (Windows::new(input), Vec::new());
        while let Some(size) = windows.next().await {
            sizes.push((size.width, size.height));
        }
        assert_eq!(sizes, [(80, 24), (1, 2), (3, 4)]);
    }
}
