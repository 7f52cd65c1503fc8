//! The firmware-upload files: writers, readers, a worker and somebody who cancels.

use shuttle::sync::atomic::{AtomicU32, Ordering};
use shuttle::sync::{Arc, Mutex};
use shuttle::thread;
use tdx_host::Errno;
use tdx_host::upload::{
    FailureWord, ImageStore, LoadingWrite, StoreError, Upload, UploadError, UploadStatus,
};
use tdx_races::explore;

/// Bytes of an image: all of them are the same, so that a mix of two shows.
const SIZE: usize = 4;

#[derive(Debug, Default)]
struct Store(Vec<u8>);

impl ImageStore for Store {
    fn len(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap()
    }
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        let start = usize::try_from(offset).map_err(|_| StoreError::TooLarge)?;
        self.0.resize(self.0.len().max(start + bytes.len()), 0);
        self.0[start..start + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> usize {
        let rest = usize::try_from(offset).ok().and_then(|start| self.0.get(start..)).unwrap_or_default();
        let size = rest.len().min(buffer.len());
        buffer[..size].copy_from_slice(&rest[..size]);
        size
    }
    fn clear(&mut self) {
        self.0 = Vec::new();
    }
}

/// The files, what a worker takes its image from, and counts of what happened.
#[derive(Debug, Default)]
struct Files {
    upload: Upload,
    store: Mutex<Store>,
    committed: Mutex<Option<Vec<u8>>>,
    commits: AtomicU32,
    running: AtomicU32,
    transferred: AtomicU32,
    cancelled: AtomicU32,
}

impl Files {
    /// A write to `loading`, as an embedder does it: the image changes hands under the lock of the store.
    fn loading(&self, text: &[u8]) -> LoadingWrite {
        let mut store = self.store.lock().unwrap();
        let done = self.upload.write_loading(&mut *store, text);
        if done == LoadingWrite::Committed {
            let image = std::mem::take(&mut store.0);
            let before = self.committed.lock().unwrap().replace(image);
            assert_eq!(before, None, "an image was committed over another");
            self.commits.fetch_add(1, Ordering::SeqCst);
        }
        done
    }

    fn data(&self, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.upload.write_data(&mut *self.store.lock().unwrap(), offset, bytes)
    }

    /// One life of a worker.
    fn work(&self) {
        let Some(mut run) = self.upload.begin() else { return };
        assert_eq!(self.running.fetch_add(1, Ordering::SeqCst), 0, "two updates run");
        let image = self.committed.lock().unwrap().take().expect("what was committed");
        assert!(!image.is_empty() && self.upload.remaining_size() as usize == image.len());
        let moved = run.transfer();
        match moved {
            Ok(()) => {
                self.transferred.fetch_add(1, Ordering::SeqCst);
                run.transferred();
                self.running.fetch_sub(1, Ordering::SeqCst);
                run.succeed();
            }
            Err(error) => {
                assert_eq!(error, UploadError::Cancelled);
                self.cancelled.fetch_add(1, Ordering::SeqCst);
                self.running.fetch_sub(1, Ordering::SeqCst);
                run.fail(FailureWord::UserAbort);
            }
        }
    }

    /// What a shell does with an image of bytes `fill`; whether the commit was this one's.
    fn upload(self: &Arc<Self>, fill: u8) -> bool {
        self.loading(b"1\n");
        for half in 0..2 {
            // Refused while the update of another image runs.
            let _ = self.data(half * 2, &[fill; SIZE / 2]);
        }
        let committed = self.loading(b"0\n") == LoadingWrite::Committed;
        if committed {
            let files = Arc::clone(self);
            thread::spawn(move || files.work()).join().unwrap();
        }
        committed
    }

    /// At rest: nothing is left over.
    fn settled(&self) {
        assert_eq!(self.upload.status(), UploadStatus::Idle);
        assert!(self.committed.lock().unwrap().is_none(), "every committed image had its worker");
        let [commits, transferred, cancelled] =
            [&self.commits, &self.transferred, &self.cancelled].map(|count| count.load(Ordering::SeqCst));
        assert_eq!(commits, transferred + cancelled, "every commit ended");
    }
}

#[test]
fn two_writers_make_one_update_at_a_time_and_every_commit_has_its_worker() {
    explore(9000, || {
        let files = Arc::new(Files::default());
        let writers = [1, 2].map(|fill| {
            let files = Arc::clone(&files);
            thread::spawn(move || files.upload(fill))
        });
        // Each may undo what the other began, as in Linux.
        let committed = writers.map(|writer| writer.join().unwrap()).into_iter().filter(|done| *done).count();
        assert_eq!(files.commits.load(Ordering::SeqCst) as usize, committed);
        assert_eq!(files.upload.failure(), Ok(None));
        files.settled();
        assert!(files.upload(3), "the next one is taken");
        files.settled();
    });
}

#[test]
fn a_reader_sees_the_states_in_their_order_and_an_error_only_at_rest() {
    explore(9000, || {
        let files = Arc::new(Files::default());
        let reader = {
            let files = Arc::clone(&files);
            thread::spawn(move || {
                let mut seen = Vec::new();
                for _ in 0..4 {
                    let before = files.upload.status();
                    let failure = files.upload.failure();
                    let after = files.upload.status();
                    if before != UploadStatus::Idle && before == after {
                        assert_eq!(failure, Err(Errno::EBUSY), "while {before}");
                    }
                    seen.extend([before, after]);
                }
                seen
            })
        };
        assert!(files.upload(1));
        let seen = reader.join().unwrap();
        // Idle at the start and at the end, the others once and in their order.
        let running: Vec<_> = seen.iter().skip_while(|status| **status == UploadStatus::Idle).collect();
        let rest = running.iter().position(|status| **status == UploadStatus::Idle).unwrap_or(running.len());
        assert!(running[..rest].is_sorted(), "{seen:?}");
        assert!(running[rest..].iter().all(|status| **status == UploadStatus::Idle), "{seen:?}");
        files.settled();
    });
}

#[test]
fn an_update_is_cancelled_before_the_module_is_touched_or_not_at_all() {
    explore(9000, || {
        let files = Arc::new(Files::default());
        let canceller = {
            let files = Arc::clone(&files);
            thread::spawn(move || files.upload.cancel(b"1\n", true))
        };
        assert!(files.upload(1));
        let asked = canceller.join().unwrap();
        let failure = files.upload.failure().unwrap().map(|failure| failure.to_string());
        let touched = files.transferred.load(Ordering::SeqCst) == 1;
        match failure.as_deref() {
            None => assert!(touched),
            Some(word) => {
                assert_eq!((word, touched, asked), ("preparing:user-abort", false, Ok(())));
            }
        }
        if asked == Err(Errno::ENODEV) {
            assert!(touched, "who is told that nothing runs did not cancel");
        }
        // A request to cancel dies with the update that it was for.
        assert!(files.upload(2));
        assert_eq!(files.upload.failure(), Ok(None));
        files.settled();
    });
}

#[test]
fn an_abandoned_upload_does_not_stand_in_the_way() {
    explore(6000, || {
        let files = Arc::new(Files::default());
        let abandoned = {
            let files = Arc::clone(&files);
            thread::spawn(move || {
                files.loading(b"1\n");
                let _ = files.data(0, &[9; SIZE]);
                files.loading(b"-1\n");
            })
        };
        files.upload(1);
        abandoned.join().unwrap();
        assert!(files.upload(2), "the next one is taken");
        assert_eq!(files.upload.failure(), Ok(None));
        files.settled();
    });
}
