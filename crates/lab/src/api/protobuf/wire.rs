//! The protobuf wire format: numbered fields, one after the other.

use super::ProtobufError;

/// A field's content.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scalar<'a> {
    Varint(i64),
    Double(f64),
    Bytes(&'a [u8]),
}

/// Reads the fields of a message.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next field and its number.
    pub(super) fn next(&mut self) -> Result<Option<(u64, Scalar<'a>)>, ProtobufError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let scalar = match key & 7 {
            0 => Scalar::Varint(self.varint()?.cast_signed()),
            1 => {
                let (bytes, rest) = self.0.split_first_chunk().ok_or(ProtobufError::Malformed)?;
                self.0 = rest;
                Scalar::Double(f64::from_le_bytes(*bytes))
            }
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| ProtobufError::Malformed)?;
                let (bytes, rest) = self.0.split_at_checked(length).ok_or(ProtobufError::Malformed)?;
                self.0 = rest;
                Scalar::Bytes(bytes)
            }
            5 => {
                let (bytes, rest) = self.0.split_first_chunk().ok_or(ProtobufError::Malformed)?;
                self.0 = rest;
                Scalar::Double(f64::from(f32::from_le_bytes(*bytes)))
            }
            _ => return Err(ProtobufError::Malformed),
        };
        Ok(Some((key >> 3, scalar)))
    }

    fn varint(&mut self) -> Result<u64, ProtobufError> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or(ProtobufError::Malformed)?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(ProtobufError::Malformed)
    }
}

/// Every occurrence of a field with a length.
pub(super) fn all_bytes(message: &[u8], wanted: u64) -> Result<Vec<&[u8]>, ProtobufError> {
    let (mut reader, mut all) = (Reader::new(message), Vec::new());
    while let Some((number, scalar)) = reader.next()? {
        if let (true, Scalar::Bytes(bytes)) = (number == wanted, scalar) {
            all.push(bytes);
        }
    }
    Ok(all)
}

/// A field with a length.
pub(super) fn find_bytes(message: &[u8], wanted: u64) -> Result<Option<&[u8]>, ProtobufError> {
    Ok(all_bytes(message, wanted)?.pop())
}

/// A number field.
pub(super) fn find_int(message: &[u8], wanted: u64) -> Result<Option<i64>, ProtobufError> {
    let (mut reader, mut found) = (Reader::new(message), None);
    while let Some((number, scalar)) = reader.next()? {
        if let (true, Scalar::Varint(value)) = (number == wanted, scalar) {
            found = Some(value);
        }
    }
    Ok(found)
}

/// Numbers in one field, back to back.
pub(super) fn packed(bytes: &[u8]) -> Result<Vec<i64>, ProtobufError> {
    let (mut reader, mut all) = (Reader::new(bytes), Vec::new());
    while !reader.0.is_empty() {
        all.push(reader.varint()?.cast_signed());
    }
    Ok(all)
}
