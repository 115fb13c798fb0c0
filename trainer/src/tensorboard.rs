//! Event files for TensorBoard: numbers and pictures by step.
//!
//! The file is a sequence of records (length, checksum, message, checksum) as TFRecord defines
//! them; the messages are the few fields of TensorFlow's `event.proto` and `summary.proto` that
//! TensorBoard reads for these two kinds.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message;

/// First message of every file; TensorBoard reads the version from it.
const FILE_VERSION: &str = "brain.Event:2";
/// `SessionLog.START`: what was recorded at this step and after it is dropped.
const SESSION_START: i32 = 1;
/// `Image.colorspace` of RGB.
const RGB: i32 = 3;
/// Added to a rotated checksum, so that checksums of data that hold checksums stay useful.
const CHECKSUM_DELTA: u32 = 0xa282_ead8;

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(oneof = "What", tags = "3, 5, 7")]
    what: Option<What>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum What {
    #[prost(string, tag = "3")]
    FileVersion(String),
    #[prost(message, tag = "5")]
    Summary(Summary),
    #[prost(message, tag = "7")]
    SessionLog(SessionLog),
}

#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    #[prost(int32, tag = "1")]
    status: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(oneof = "Content", tags = "2, 4")]
    content: Option<Content>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Content {
    #[prost(float, tag = "2")]
    SimpleValue(f32),
    #[prost(message, tag = "4")]
    Image(Image),
}

#[derive(Clone, PartialEq, Message)]
struct Image {
    #[prost(int32, tag = "1")]
    height: i32,
    #[prost(int32, tag = "2")]
    width: i32,
    #[prost(int32, tag = "3")]
    colorspace: i32,
    #[prost(bytes = "vec", tag = "4")]
    encoded_image_string: Vec<u8>,
}

/// A picture as it is shown.
#[derive(Clone, Copy, Debug)]
pub struct EncodedPicture<'a> {
    /// Rows.
    pub height: u32,
    /// Columns.
    pub width: u32,
    /// A JPEG or PNG file.
    pub bytes: &'a [u8],
}

/// An event file that is open for writing. Each call writes whole records, so a reader at work
/// sees everything up to the last one.
pub struct EventWriter {
    file: File,
}

impl EventWriter {
    /// Starts a new event file in `folder`, beside those of earlier parts of the run.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn create(folder: &Path) -> std::io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // TensorBoard reads the files of a folder in the order of their names.
        let name = format!(
            "events.out.tfevents.{:010}.{:09}.{}",
            now.as_secs(),
            now.subsec_nanos(),
            std::process::id()
        );
        let file = OpenOptions::new().create_new(true).append(true).open(folder.join(name))?;
        let mut writer = Self { file };
        writer.write(0, What::FileVersion(FILE_VERSION.to_owned()))?;
        Ok(writer)
    }

    /// Tells readers that the run goes on at `step`: what earlier files hold of it and of later
    /// steps counts no more.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn restart_at(&mut self, step: u64) -> std::io::Result<()> {
        self.write(step, What::SessionLog(SessionLog { status: SESSION_START }))
    }

    /// Writes numbers of one step.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn scalars(&mut self, step: u64, values: &[(String, f64)]) -> std::io::Result<()> {
        let value = |(tag, value): &(String, f64)| Value {
            tag: tag.clone(),
            content: Some(Content::SimpleValue(*value as f32)),
        };
        self.write(step, What::Summary(Summary { value: values.iter().map(value).collect() }))
    }

    /// Writes a picture of one step.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn picture(
        &mut self,
        step: u64,
        tag: &str,
        picture: EncodedPicture<'_>,
    ) -> std::io::Result<()> {
        let image = Image {
            height: picture.height as i32,
            width: picture.width as i32,
            colorspace: RGB,
            encoded_image_string: picture.bytes.to_vec(),
        };
        let value = Value { tag: tag.to_owned(), content: Some(Content::Image(image)) };
        self.write(step, What::Summary(Summary { value: vec![value] }))
    }

    fn write(&mut self, step: u64, what: What) -> std::io::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let step = i64::try_from(step).unwrap_or(i64::MAX);
        let event = Event { wall_time: now.as_secs_f64(), step, what: Some(what) };
        self.file.write_all(&record(&event.encode_to_vec()))
    }
}

/// A message with its length and both checksums.
fn record(message: &[u8]) -> Vec<u8> {
    let length = (message.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(message.len() + 16);
    record.extend_from_slice(&length);
    record.extend_from_slice(&masked_checksum(&length).to_le_bytes());
    record.extend_from_slice(message);
    record.extend_from_slice(&masked_checksum(message).to_le_bytes());
    record
}

/// CRC-32C, rotated and shifted as TFRecord asks.
fn masked_checksum(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes).rotate_right(15).wrapping_add(CHECKSUM_DELTA)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_framed_as_tensorflow_frames_them() {
        let record = record(&[0; 24]);
        assert_eq!(record[..8], 24_u64.to_le_bytes());
        assert_eq!(record.len(), 24 + 16);
        // CRC-32C of "123456789" is 0xe3069283, the check value of the polynomial.
        let rotated = 0xe306_9283_u32.rotate_right(15).wrapping_add(CHECKSUM_DELTA);
        assert_eq!(masked_checksum(b"123456789"), rotated);
    }

    #[test]
    fn a_file_holds_its_messages_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(folder.path()).unwrap();
        writer.scalars(3, &[("train/loss".to_owned(), 0.5)]).unwrap();
        writer.restart_at(3).unwrap();
        let picture = EncodedPicture { height: 2, width: 5, bytes: b"jpeg" };
        writer.picture(4, "eval/val/box/a", picture).unwrap();
        let path = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
        let mut bytes = std::fs::read(path).unwrap();
        let mut events = Vec::new();
        while !bytes.is_empty() {
            let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            events.push(Event::decode(&bytes[12..12 + length]).unwrap());
            bytes.drain(..length + 16);
        }
        let steps: Vec<i64> = events.iter().map(|event| event.step).collect();
        assert_eq!(steps, [0, 3, 3, 4]);
        assert_eq!(events[0].what, Some(What::FileVersion(FILE_VERSION.to_owned())));
        let Some(What::Summary(summary)) = &events[3].what else { panic!("a summary") };
        let Some(Content::Image(image)) = &summary.value[0].content else { panic!("a picture") };
        assert_eq!((image.height, image.width), (2, 5));
    }
}
