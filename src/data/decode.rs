//! Picture files.

use std::fmt::Display;
use std::io::{Cursor, Read};
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};

use super::dataset::open_regular;
use super::picture::{Picture, flatten};
use crate::{Error, Result};

/// The longest side a picture file may have, in pixels.
pub const MAX_SIDE: u32 = 16_384;
/// The most bytes a picture may take, in its file and decoded.
pub const MAX_BYTES: u64 = 256 << 20;

/// What decoders say of a size beyond a limit of their own.
const DECODERS_LIMITS: [&str; 2] = ["too large", "greater than"];

impl Picture {
    /// Reads a PNG, JPEG or BMP file, told by its content and not by its name.
    ///
    /// See [`Picture::decode`] for what becomes of transparency and of 16-bit, palette and CMYK pictures.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read; [`Error::Format`] if it is a folder, pipe or device, no such picture,
    /// damaged, cut short, wider or higher than [`MAX_SIDE`] or larger than [`MAX_BYTES`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let io = |e| Error::io(path, e);
        if std::fs::metadata(path).map_err(io)?.is_dir() {
            return Err(Error::format(path.display(), "is a folder; name a picture file in it"));
        }
        let mut bytes = Vec::new();
        open_regular(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(io)?;
        Self::decode(&bytes, path.display())
    }

    /// Decodes the `bytes` of a PNG, JPEG or BMP file; `what` names it in errors.
    ///
    /// Grey pictures of any depth give 1 channel, all others 3 (sRGB, 8 bits). A transparent picture is put on
    /// white, or on black if what is drawn is itself nearly white (alpha-weighted mean brightness above 223 of 255)
    /// and would vanish. An EXIF orientation is applied.
    ///
    /// # Errors
    /// [`Error::Format`] as for [`Picture::open`].
    pub fn decode(bytes: &[u8], what: impl Display) -> Result<Self> {
        let bad = |why: &dyn Display| Error::format(&what, why);
        if bytes.is_empty() {
            return Err(bad(&"is empty (0 bytes); give a PNG, JPEG or BMP picture"));
        }
        if bytes.len() as u64 > MAX_BYTES {
            return Err(bad(&format_args!("is larger than {} MiB; make the picture smaller", MAX_BYTES >> 20)));
        }
        let format = match image::guess_format(bytes) {
            Ok(format @ (ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::Bmp)) => format,
            _ => return Err(bad(&"is not a PNG, JPEG or BMP picture, whatever its name; convert it to one of these")),
        };
        if format == ImageFormat::Jpeg && !jpeg_is_complete(bytes) {
            // The decoder would fill the missing part with grey and say nothing.
            return Err(bad(&"is a JPEG cut short: its end mark is missing; get the file again"));
        }
        let too_large = || {
            bad(&format_args!(
                "is larger than {MAX_SIDE} pixels a side or {} MiB decoded; make the picture smaller",
                MAX_BYTES >> 20
            ))
        };
        let explain = |e: ImageError| match e {
            ImageError::Limits(_) => too_large(),
            // The decoders of BMP and JPEG have limits of their own, told by their text only.
            ImageError::Decoding(e) if DECODERS_LIMITS.iter().any(|said| e.to_string().contains(said)) => too_large(),
            ImageError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
                bad(&"is a picture cut short; get the file again")
            }
            e => bad(&format_args!("cannot be decoded ({e}); get the file again or save it anew as PNG")),
        };
        let mut limits = Limits::default();
        limits.max_image_width = Some(MAX_SIDE);
        limits.max_image_height = Some(MAX_SIDE);
        limits.max_alloc = Some(MAX_BYTES);
        let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
        reader.limits(limits.clone());
        let mut decoder = reader.into_decoder().map_err(explain)?;
        limits.reserve(decoder.total_bytes()).map_err(explain)?;
        // A picture with unreadable EXIF data is shown as it lies, as most viewers do.
        let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
        let mut image = DynamicImage::from_decoder(decoder).map_err(explain)?;
        image.apply_orientation(orientation);

        let (width, height) = (image.width() as usize, image.height() as usize);
        let color = image.color();
        let (channels, pixels) = match (color.has_color(), color.has_alpha()) {
            (false, false) => (1, image.into_luma8().into_raw()),
            (true, false) => (3, image.into_rgb8().into_raw()),
            (false, true) => (1, flatten::<1>(image.into_luma_alpha8().into_raw())),
            (true, true) => (3, flatten::<3>(image.into_rgba8().into_raw())),
        };
        Picture::new(width, height, channels, pixels).map_err(|e| bad(&e))
    }
}

/// Whether a JPEG's segments and scans run on to its end-of-image marker.
fn jpeg_is_complete(bytes: &[u8]) -> bool {
    let mut at = 2;
    loop {
        // Entropy-coded data holds FF only as FF 00 and before the restart markers D0 to D7.
        while let Some(&[a, b]) = bytes.get(at..at + 2) {
            if a == 0xff && !matches!(b, 0x00 | 0x01 | 0xd0..=0xd7 | 0xff) {
                break;
            }
            at += 1;
        }
        match bytes.get(at + 1) {
            None => return false,
            Some(0xd9) => return true,
            Some(_) => match bytes.get(at + 2..at + 4) {
                Some(&[hi, lo]) => at += 2 + usize::from(u16::from_be_bytes([hi, lo])),
                _ => return false,
            },
        }
    }
}
