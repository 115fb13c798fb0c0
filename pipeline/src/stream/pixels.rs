//! The memory of batches. Samples are written straight into their places in it, by several threads
//! at once, and it is used again once a batch is dropped: fresh memory would cost a page fault for
//! every 4 KiB. All of it is taken at the start. Taken when needed, it would grow to the same, but only
//! after the first moment, epochs later maybe, at which every batch that may be alive is.

use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::BytesMut;

/// The pixels of a batch, read as `[u8]`. Dropping it lets a later batch use its memory.
pub struct PixelBuffer {
    bytes: BytesMut,
    pool: Option<Arc<Pool>>,
}

impl PixelBuffer {
    /// Nothing yet; [`PixelBuffer::append`] fills it.
    pub(super) fn empty(pool: &Arc<Pool>) -> Self {
        Self { bytes: BytesMut::new(), pool: Some(Arc::clone(pool)) }
    }

    /// Adds the next place of the same buffer, without copying.
    pub(super) fn append(&mut self, place: BytesMut) {
        self.bytes.unsplit(place);
    }
}

impl From<Vec<u8>> for PixelBuffer {
    /// Pixels that come from elsewhere than a stream.
    fn from(pixels: Vec<u8>) -> Self {
        Self { bytes: BytesMut::from(pixels.as_slice()), pool: None }
    }
}

impl Drop for PixelBuffer {
    fn drop(&mut self) {
        if let Some(pool) = &self.pool {
            pool.give(std::mem::take(&mut self.bytes));
        }
    }
}

impl Deref for PixelBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Clone for PixelBuffer {
    /// A copy in memory of its own.
    fn clone(&self) -> Self {
        Self { bytes: self.bytes.clone(), pool: None }
    }
}

impl PartialEq for PixelBuffer {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl fmt::Debug for PixelBuffer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "[{} values]", self.bytes.len())
    }
}

/// Buffers of one length that no batch uses.
pub(super) struct Pool {
    length: usize,
    most_kept: usize,
    free: Mutex<Vec<BytesMut>>,
    /// Buffers beside those of the start, over the life of the pool.
    extra: AtomicUsize,
}

impl Pool {
    /// A pool of `count` buffers of `length` bytes. More are made when they are asked for; one of
    /// those is kept, for a consumer that takes the next batch before it drops the last.
    pub(super) fn new(length: usize, count: usize) -> Arc<Self> {
        let free = (0..count).map(|_| resident(length)).collect();
        let extra = AtomicUsize::new(0);
        Arc::new(Self { length, most_kept: count + 1, free: Mutex::new(free), extra })
    }

    /// A buffer with anything in it.
    fn take(&self) -> BytesMut {
        let kept = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        kept.unwrap_or_else(|| {
            self.extra.fetch_add(1, Ordering::Relaxed);
            BytesMut::zeroed(self.length)
        })
    }

    /// Buffers that had to be made since the start: 0 while its user holds no more batches than it
    /// was made for.
    pub(super) fn extra(&self) -> usize {
        self.extra.load(Ordering::Relaxed)
    }

    fn give(&self, bytes: BytesMut) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        // The rest of a batch that was given up is no whole buffer.
        if bytes.len() == self.length && free.len() < self.most_kept {
            free.push(bytes);
        }
    }
}

/// A buffer that is there: of memory that is zero, the system gives each page when it is written.
fn resident(length: usize) -> BytesMut {
    let mut bytes = BytesMut::with_capacity(length);
    bytes.resize(length, u8::MAX);
    bytes
}

/// Hands out the places of batches, one sample after the other.
pub(super) struct Places {
    pool: Arc<Pool>,
    left: BytesMut,
    place_bytes: usize,
}

impl Places {
    /// Places of `place_bytes` in buffers of `pool`.
    pub(super) fn new(pool: &Arc<Pool>, place_bytes: usize) -> Self {
        Self { pool: Arc::clone(pool), left: BytesMut::new(), place_bytes }
    }

    /// The next place, with anything in it.
    pub(super) fn next(&mut self) -> BytesMut {
        if self.left.is_empty() {
            self.left = self.pool.take();
        }
        self.left.split_to(self.place_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(places: &mut Places, pool: &Arc<Pool>, first: u8) -> PixelBuffer {
        let mut buffer = PixelBuffer::empty(pool);
        for value in first..first + 3 {
            let mut place = places.next();
            place.fill(value);
            buffer.append(place);
        }
        buffer
    }

    #[test]
    fn a_dropped_batch_is_written_over_and_one_that_is_held_is_not() {
        let pool = Pool::new(6, 1);
        let mut places = Places::new(&pool, 2);
        let held = fill(&mut places, &pool, 1);
        let first = fill(&mut places, &pool, 4);
        let address = first.as_ptr();
        drop(first);
        let second = fill(&mut places, &pool, 7);
        assert_eq!(second.as_ptr(), address, "the memory is used again");
        assert_eq!((&held[..], &second[..]), (&[1, 1, 2, 2, 3, 3][..], &[7, 7, 8, 8, 9, 9][..]));
        let copy = second.clone();
        drop(second);
        assert_eq!(copy, fill(&mut places, &pool, 7));
    }

    #[test]
    fn no_more_is_kept_than_allowed() {
        let pool = Pool::new(6, 1);
        let mut places = Places::new(&pool, 2);
        let buffers: Vec<PixelBuffer> = (0..3).map(|_| fill(&mut places, &pool, 0)).collect();
        assert_eq!(pool.extra(), 2);
        drop(buffers);
        assert_eq!(pool.free.lock().unwrap().len(), 2);
    }
}
