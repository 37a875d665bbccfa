//! The text form that public keys and seeds share: base32 and the checksum.

use data_encoding::BASE32_NOPAD;

use super::KeyError;

/// The upper five bits of a seed's first byte: the letter `S`.
pub(super) const SEED_PREFIX: u8 = 18 << 3;

/// The `N` raw bytes of a text of exactly `characters`, whose checksum holds.
pub(super) fn decode<const N: usize>(text: &str, characters: usize) -> Result<[u8; N], KeyError> {
    if text.len() != characters {
        return Err(KeyError::Format(characters));
    }
    let mut raw = [0; N];
    let length = BASE32_NOPAD.decode_len(text.len()).map_err(|_| KeyError::Format(characters))?;
    if length != N {
        return Err(KeyError::Format(characters));
    }
    BASE32_NOPAD.decode_mut(text.as_bytes(), &mut raw).map_err(|_| KeyError::Format(characters))?;
    let (body, crc) = raw.split_at(N - 2);
    if crc16(body).to_le_bytes() == *crc { Ok(raw) } else { Err(KeyError::Checksum) }
}

/// CRC16-XMODEM, as nkeys uses it to find typing mistakes.
pub(super) fn crc16(data: &[u8]) -> u16 {
    data.iter().fold(0, |crc, byte| {
        let index = (crc >> 8) ^ u16::from(*byte);
        (crc << 8) ^ CRC_TABLE[usize::from(index)]
    })
}

const CRC_TABLE: [u16; 256] = {
    let mut table = [0_u16; 256];
    let mut index = 0;
    while index < 256 {
        #[expect(clippy::cast_possible_truncation, reason = "below 256")]
        let mut crc = (index as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
};
