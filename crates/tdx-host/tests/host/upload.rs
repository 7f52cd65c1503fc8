//! The firmware-upload protocol.

use proptest::prelude::*;
use tdx_host::error::ErrorInfo;
use tdx_host::upload::{
    FailureWord, ImageStore, LoadingWrite, RunningUpload, StoreError, UPLOAD_ERRORS, Upload, UploadError,
    UploadFailure, UploadRules, UploadStatus,
};
use tdx_host::{Errno, HostError, upload};
use tdx_image::{HeaderVersion, Sigstruct};

/// Most bytes that the store of these tests takes.
const ROOM: usize = 64;

#[derive(Debug, Default)]
struct Store {
    bytes: Vec<u8>,
    no_memory: bool,
}

impl ImageStore for Store {
    fn len(&self) -> u32 {
        u32::try_from(self.bytes.len()).unwrap()
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        if self.no_memory {
            return Err(StoreError::NoMemory);
        }
        let start = usize::try_from(offset).map_err(|_| StoreError::TooLarge)?;
        let end = start.checked_add(bytes.len()).filter(|&end| end <= ROOM).ok_or(StoreError::TooLarge)?;
        if end > self.bytes.len() {
            self.bytes.resize(end, 0);
        }
        self.bytes[start..end].copy_from_slice(bytes);
        Ok(())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> usize {
        let start = usize::try_from(offset).map_or(self.bytes.len(), |start| start.min(self.bytes.len()));
        let size = buffer.len().min(self.bytes.len() - start);
        buffer[..size].copy_from_slice(&self.bytes[start..start + size]);
        size
    }

    fn clear(&mut self) {
        self.bytes = Vec::new();
    }
}

/// An upload with its store and, while an update runs, its worker.
struct Bench<'a> {
    upload: &'a Upload,
    store: Store,
    run: Option<RunningUpload<'a>>,
}

impl<'a> Bench<'a> {
    fn new(upload: &'a Upload) -> Self {
        Self { upload, store: Store::default(), run: None }
    }

    fn loading(&mut self, text: &[u8]) -> LoadingWrite {
        let done = self.upload.write_loading(&mut self.store, text);
        if done == LoadingWrite::Committed {
            // The worker has the image.
            self.store.clear();
        }
        done
    }

    fn data(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.upload.write_data(&mut self.store, offset, bytes)
    }

    fn read(&self) -> Result<Vec<u8>, Errno> {
        let mut buffer = [0; ROOM];
        let size = self.upload.read_data(&self.store, 0, &mut buffer)?;
        Ok(buffer[..size].to_vec())
    }

    fn shown(&self) -> (bool, UploadStatus, Result<String, Errno>, u32) {
        let view = self.upload.view();
        let failure = self.upload.failure();
        assert_eq!(view.failure, failure.unwrap_or(None));
        assert_eq!((view.loading, view.status), (self.upload.is_loading(), self.upload.status()));
        assert_eq!(view.remaining_size, self.upload.remaining_size());
        let error = failure.map(|failure| failure.map_or(String::new(), |it| it.to_string()));
        (self.upload.is_loading(), self.upload.status(), error, self.upload.remaining_size())
    }

    /// Takes the upload to `state` from the start.
    fn reach(upload: &'a Upload, state: State) -> Self {
        let mut bench = Self::new(upload);
        if state == State::Fresh {
            return bench;
        }
        if state == State::Early {
            bench.data(0, b"early").unwrap();
            return bench;
        }
        assert_eq!(bench.loading(b"1\n"), LoadingWrite::Started);
        if state == State::Started {
            return bench;
        }
        bench.data(0, b"image").unwrap();
        if state == State::Filled {
            return bench;
        }
        assert_eq!(bench.loading(b"0\n"), LoadingWrite::Committed);
        if state == State::Receiving {
            return bench;
        }
        let mut run = upload.begin().unwrap();
        if state != State::Preparing {
            run.transfer().unwrap();
        }
        if state == State::Programming {
            run.transferred();
        }
        match state {
            State::Failed => run.fail(FailureWord::FirmwareInvalid),
            State::Succeeded => {
                run.transferred();
                run.succeed();
            }
            _ => bench.run = Some(run),
        }
        bench
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing happened.
    Fresh,
    /// Bytes without a start.
    Early,
    /// A start without bytes.
    Started,
    /// A start and bytes.
    Filled,
    Receiving,
    Preparing,
    Transferring,
    Programming,
    Succeeded,
    Failed,
}

use State::{
    Early, Failed, Filled, Fresh, Preparing, Programming, Receiving, Started, Succeeded, Transferring,
};

const ALL: [State; 10] =
    [Fresh, Early, Started, Filled, Receiving, Preparing, Transferring, Programming, Succeeded, Failed];

fn is_running(state: State) -> bool {
    matches!(state, Receiving | Preparing | Transferring | Programming)
}

#[test]
fn the_files_show_each_state_in_linux_words() {
    let busy = || Err(Errno::EBUSY);
    let none = || Ok(String::new());
    for (state, expected) in [
        (Fresh, (false, UploadStatus::Idle, none(), 0)),
        (Early, (false, UploadStatus::Idle, none(), 0)),
        (Started, (true, UploadStatus::Idle, none(), 0)),
        (Filled, (true, UploadStatus::Idle, none(), 0)),
        (Receiving, (false, UploadStatus::Receiving, busy(), 5)),
        (Preparing, (false, UploadStatus::Preparing, busy(), 5)),
        (Transferring, (false, UploadStatus::Transferring, busy(), 5)),
        (Programming, (false, UploadStatus::Programming, busy(), 0)),
        (Succeeded, (false, UploadStatus::Idle, none(), 0)),
        (Failed, (false, UploadStatus::Idle, Ok("transferring:firmware-invalid".to_owned()), 5)),
    ] {
        let upload = Upload::new();
        assert_eq!(Bench::reach(&upload, state).shown(), expected, "{state:?}");
    }
}

#[test]
fn each_write_to_loading_does_in_each_state_what_linux_does() {
    use LoadingWrite::{Aborted, Committed, Empty, Ignored, Unexpected};
    for state in ALL {
        for text in [&b"1\n"[..], b"0\n", b"-1\n", b"2\n", b"-7", b"", b"start", b"1abc"] {
            let expected = match (state, text) {
                _ if is_running(state) => Ignored,
                (_, b"1\n" | b"1abc") => LoadingWrite::Started,
                (Filled, b"0\n" | b"" | b"start") => Committed,
                (Started, b"0\n" | b"" | b"start") => Empty,
                (_, b"0\n" | b"" | b"start") => Unexpected(0),
                (_, b"-1\n") => Aborted,
                (_, b"2\n") => Unexpected(2),
                _ => Unexpected(-7),
            };
            let upload = Upload::new();
            let mut bench = Bench::reach(&upload, state);
            let before = bench.shown();
            assert_eq!(bench.loading(text), expected, "{state:?} {text:?}");
            assert!(bench.store.is_empty(), "{state:?} {text:?}");
            assert_eq!(upload.is_loading(), expected == LoadingWrite::Started, "{state:?} {text:?}");
            if expected == Ignored {
                assert_eq!(bench.shown(), before);
            }
            if expected == Committed {
                assert_eq!(upload.status(), UploadStatus::Receiving);
                assert_eq!(upload.remaining_size(), 5);
            }
        }
    }
}

#[test]
fn data_is_taken_and_shown_unless_an_update_runs() {
    for state in ALL {
        let upload = Upload::new();
        let mut bench = Bench::reach(&upload, state);
        let before = bench.store.bytes.clone();
        if is_running(state) {
            assert_eq!(bench.data(0, b"x"), Err(Errno::ENODEV), "{state:?}");
            assert_eq!(bench.read(), Err(Errno::ENODEV), "{state:?}");
        } else {
            let mut expected = before;
            expected.resize(expected.len().max(8), 0);
            expected[7] = b'x';
            assert_eq!(bench.data(7, b"x"), Ok(()), "{state:?}");
            assert_eq!(bench.read(), Ok(expected), "{state:?}");
        }
    }
}

#[test]
fn pieces_land_at_their_offsets_in_any_order() {
    let upload = Upload::new();
    let mut bench = Bench::reach(&upload, Started);
    for (offset, bytes) in [(4, &b"ef"[..]), (0, b"abc"), (2, b"cd"), (6, b""), (3, b"D")] {
        bench.data(offset, bytes).unwrap();
    }
    assert_eq!(bench.read(), Ok(b"abcDef".to_vec()));
    assert_eq!(bench.loading(b"0"), LoadingWrite::Committed);
    assert_eq!(upload.remaining_size(), 6);
}

#[test]
fn bytes_before_the_start_and_of_an_abandoned_load_are_not_part_of_the_image() {
    for state in [Early, Filled, Failed] {
        let upload = Upload::new();
        let mut bench = Bench::reach(&upload, state);
        assert_eq!(bench.loading(b"1"), LoadingWrite::Started);
        bench.data(0, b"new").unwrap();
        assert_eq!(bench.read(), Ok(b"new".to_vec()), "{state:?}");
    }
}

#[test]
fn an_image_that_cannot_be_kept_ends_the_load_and_says_so() {
    for (no_memory, errno, error) in [
        (false, Errno::EFBIG, "receiving:invalid-file-size"),
        (true, Errno::ENOMEM, "receiving:read-write-error"),
    ] {
        for offset in [ROOM as u64, u64::MAX] {
            let upload = Upload::new();
            let mut bench = Bench::reach(&upload, Filled);
            bench.data(ROOM as u64 - 1, b"x").unwrap();
            bench.store.no_memory = no_memory;
            assert_eq!(bench.data(offset, b"x"), Err(errno));
            assert_eq!(bench.shown(), (false, UploadStatus::Idle, Ok(error.to_owned()), 0));
            assert!(bench.store.is_empty());
            // A program that does not look sees its commit do nothing, and the error stays.
            assert_eq!(bench.loading(b"0"), LoadingWrite::Unexpected(0));
            assert_eq!(bench.shown().2, Ok(error.to_owned()));
            // The next load is as good as any.
            bench.store.no_memory = false;
            bench.loading(b"1");
            bench.data(0, b"image").unwrap();
            assert_eq!(bench.loading(b"0"), LoadingWrite::Committed);
        }
    }
}

#[test]
fn an_error_is_shown_until_the_next_commit_of_an_image() {
    let upload = Upload::new();
    let mut bench = Bench::reach(&upload, Failed);
    let error = Ok("transferring:firmware-invalid".to_owned());
    for text in ["1", "-1", "0", "1", "0", "1"] {
        bench.loading(text.as_bytes());
        assert_eq!(bench.shown().2, error, "after {text}");
    }
    bench.data(0, b"again").unwrap();
    bench.loading(b"0");
    assert_eq!(bench.shown().2, Err(Errno::EBUSY));
    let mut run = upload.begin().unwrap();
    run.transfer().unwrap();
    run.transferred();
    run.succeed();
    assert_eq!(bench.shown(), (false, UploadStatus::Idle, Ok(String::new()), 0));
}

#[test]
fn cancel_needs_a_yes_and_an_update() {
    for text in [&b"1\n"[..], b"y", b"Yes", b"true", b"T", b"on\n", b"oN"] {
        for state in ALL {
            let upload = Upload::new();
            let bench = Bench::reach(&upload, state);
            let before = bench.shown();
            let expected = if is_running(state) { Ok(()) } else { Err(Errno::ENODEV) };
            assert_eq!(upload.cancel(text, true), expected, "{state:?} {text:?}");
            assert_eq!(bench.shown(), before);
        }
    }
    for text in [&b"0\n"[..], b"", b"\n", b"no", b"off", b"o", b"2", b"-1", b" 1"] {
        for state in [Fresh, Transferring] {
            let upload = Upload::new();
            let _bench = Bench::reach(&upload, state);
            assert_eq!(upload.cancel(text, true), Err(Errno::EINVAL), "{state:?} {text:?}");
        }
    }
}

#[test]
fn a_cancel_in_time_ends_the_update_where_it_is_heeded_and_does_nothing_where_not() {
    for state in [Receiving, Preparing] {
        for heeded in [true, false] {
            let upload = Upload::new();
            let mut bench = Bench::reach(&upload, state);
            upload.cancel(b"1", heeded).unwrap();
            let mut run = bench.run.take().or_else(|| upload.begin()).unwrap();
            if heeded {
                assert_eq!(run.transfer(), Err(UploadError::Cancelled));
                run.fail(UploadRules::POSTING_2025_09.word(&UploadError::Cancelled));
                assert_eq!(bench.shown().2, Ok("preparing:user-abort".to_owned()), "{state:?}");
            } else {
                assert_eq!(run.transfer(), Ok(()));
                run.transferred();
                run.succeed();
                assert_eq!(bench.shown().2, Ok(String::new()), "{state:?}");
            }
        }
    }
}

#[test]
fn a_cancel_that_comes_too_late_or_while_nothing_runs_stops_no_later_update() {
    for state in [Fresh, Filled, Transferring, Programming] {
        let upload = Upload::new();
        let mut bench = Bench::reach(&upload, state);
        let _ = upload.cancel(b"1", true);
        if let Some(run) = bench.run.take() {
            run.succeed();
        }
        bench.loading(b"1");
        bench.data(0, b"image").unwrap();
        bench.loading(b"0");
        assert_eq!(upload.begin().unwrap().transfer(), Ok(()), "{state:?}");
    }
}

#[test]
fn one_worker_begins_one_update() {
    for state in ALL {
        let upload = Upload::new();
        let bench = Bench::reach(&upload, state);
        let first = upload.begin();
        assert_eq!(first.is_some(), state == Receiving, "{state:?}");
        assert!(upload.begin().is_none(), "{state:?}");
        drop(bench);
    }
}

#[test]
fn a_worker_that_vanishes_leaves_a_hardware_error_where_it_was() {
    for (state, error) in [
        (Preparing, "preparing:hw-error"),
        (Transferring, "transferring:hw-error"),
        (Programming, "programming:hw-error"),
    ] {
        let upload = Upload::new();
        let mut bench = Bench::reach(&upload, state);
        drop(bench.run.take());
        assert_eq!(bench.shown().2, Ok(error.to_owned()));
        assert_eq!(bench.loading(b"1"), LoadingWrite::Started);
    }
}

#[test]
fn the_words_are_those_of_the_kernel_that_is_played() {
    use FailureWord::{DeviceBusy, FirmwareInvalid, HwError, ReadWriteError, UserAbort};

    let update = |error| UploadError::Update(error);
    let busy = update(HostError::TooManyVmxClients);
    let no_memory = update(HostError::NoMemory { bytes: 4096 });
    let gone = update(HostError::DeviceGone);
    assert_eq!(busy.info().errno, Errno::EBUSY);
    assert_eq!(no_memory.info().errno, Errno::ENOMEM);
    for (error, by_errno, one_for_all) in [
        (busy, DeviceBusy, FirmwareInvalid),
        (no_memory, ReadWriteError, FirmwareInvalid),
        (gone, FirmwareInvalid, FirmwareInvalid),
        (UploadError::Cancelled, UserAbort, UserAbort),
        (UploadError::Interrupted, HwError, HwError),
    ] {
        assert_eq!(UploadRules::POSTING_2025_09.word(&error), by_errno, "{error}");
        assert_eq!(UploadRules::LINUX_7_3.word(&error), one_for_all, "{error}");
        assert_eq!(UploadRules::POSTING_2025_03.word(&error), one_for_all, "{error}");
    }
}

/// An image with `header`; parts of it that only P-SEAMLDR looks at are zero.
fn image(header: HeaderVersion) -> Vec<u8> {
    let module = [7; 4096];
    let mut bytes = vec![0; tdx_image::encoded_len(header, module.len()).unwrap()];
    let size = tdx_image::encode(header, Sigstruct::read(&[0; 2048]), &module, &mut bytes).unwrap();
    assert_eq!(size, bytes.len());
    bytes
}

#[test]
fn each_kernel_takes_its_own_image_header_only() {
    use HeaderVersion::{V0x100, V0x200};
    for (rules, taken, other) in [
        (UploadRules::LINUX_7_3, V0x200, V0x100),
        (UploadRules::POSTING_2025_09, V0x100, V0x200),
        (UploadRules::POSTING_2025_03, V0x100, V0x200),
    ] {
        assert_eq!(rules.check_header(&image(taken)), Ok(()));
        let refused = UploadError::HeaderNotTaken { found: other, taken };
        assert_eq!(rules.check_header(&image(other)), Err(refused));
        assert_eq!(rules.word(&refused), FailureWord::FirmwareInvalid);
        assert_eq!(refused.name(), "upload-header-not-taken");
        assert!(refused.to_string().contains(&format!("header {other}")), "{refused}");
        // Left to the update, which has a name for each.
        for no_image in [&b""[..], b"TDX-BLOB", &image(other)[..4096]] {
            assert_eq!(rules.check_header(no_image), Ok(()));
        }
    }
}

#[test]
fn every_word_and_status_has_its_own_spelling() {
    let words: Vec<_> = FailureWord::ALL.map(FailureWord::name).into();
    assert_eq!(
        words,
        [
            "hw-error",
            "timeout",
            "user-abort",
            "device-busy",
            "invalid-file-size",
            "read-write-error",
            "flash-wearout",
            "firmware-invalid"
        ]
    );
    for word in FailureWord::ALL {
        let upload = Upload::new();
        let mut bench = Bench::reach(&upload, Transferring);
        bench.run.take().unwrap().fail(word);
        assert_eq!(upload.failure(), Ok(Some(UploadFailure { status: UploadStatus::Transferring, word })));
    }
}

#[test]
fn failures_of_an_upload_have_names_of_their_own() {
    for ErrorInfo { name, template, advice, .. } in UPLOAD_ERRORS {
        assert!(name.starts_with("upload-"), "{name}");
        assert!(!template.is_empty() && !advice.is_empty(), "{name}");
        assert_eq!(upload::find(name).map(|info| info.name), Some(*name));
        assert!(tdx_host::error::find(name).is_none(), "{name} is taken");
    }
    assert!(upload::find("upload-nothing").is_none());
}

#[derive(Clone, Debug)]
enum Step {
    Loading(Vec<u8>),
    Data(u64, Vec<u8>),
    Cancel(Vec<u8>, bool),
    Begin,
    Transfer,
    Transferred,
    Succeed,
    Fail(usize),
    Vanish,
    Look,
}

fn step() -> impl Strategy<Value = Step> {
    let text = prop_oneof![
        Just(b"1\n".to_vec()),
        Just(b"0\n".to_vec()),
        Just(b"-1\n".to_vec()),
        prop::collection::vec(any::<u8>(), 0..24),
    ];
    let offset = prop_oneof![4 => 0..80u64, 1 => any::<u64>()];
    prop_oneof![
        4 => text.clone().prop_map(Step::Loading),
        4 => (offset, prop::collection::vec(any::<u8>(), 0..48)).prop_map(|(at, bytes)| Step::Data(at, bytes)),
        1 => (text, any::<bool>()).prop_map(|(text, heeded)| Step::Cancel(text, heeded)),
        2 => Just(Step::Begin),
        1 => Just(Step::Transfer),
        1 => Just(Step::Transferred),
        1 => Just(Step::Succeed),
        1 => (0..FailureWord::ALL.len()).prop_map(Step::Fail),
        1 => Just(Step::Vanish),
        1 => Just(Step::Look),
    ]
}

proptest! {
    #[test]
    fn no_order_of_operations_panics_keeps_bytes_or_hangs(steps in prop::collection::vec(step(), 0..60)) {
        let upload = Upload::new();
        let mut bench = Bench::new(&upload);
        for step in steps {
            let running = upload.status() != UploadStatus::Idle;
            match step {
                Step::Loading(text) => {
                    let done = bench.loading(&text);
                    prop_assert_eq!(done == LoadingWrite::Ignored, running);
                    prop_assert!(bench.store.is_empty());
                }
                Step::Data(offset, bytes) => {
                    let done = bench.data(offset, &bytes);
                    prop_assert_eq!(done == Err(Errno::ENODEV), running);
                    if done.is_err() {
                        prop_assert!(bench.store.is_empty() && !upload.is_loading());
                    }
                }
                Step::Cancel(text, heeded) => {
                    match upload.cancel(&text, heeded) {
                        Ok(()) => prop_assert!(running),
                        Err(Errno::ENODEV) => prop_assert!(!running),
                        refused => prop_assert!(refused == Err(Errno::EINVAL) && text != b"1\n"),
                    }
                }
                Step::Begin => if let Some(run) = upload.begin() {
                    prop_assert!(bench.run.is_none(), "two workers");
                    bench.run = Some(run);
                },
                Step::Transfer => if let Some(run) = &mut bench.run {
                    let _ = run.transfer();
                },
                Step::Transferred => if let Some(run) = &mut bench.run {
                    run.transferred();
                },
                Step::Succeed => if let Some(run) = bench.run.take() {
                    run.succeed();
                },
                Step::Fail(word) => if let Some(run) = bench.run.take() {
                    run.fail(FailureWord::ALL[word]);
                },
                Step::Vanish => drop(bench.run.take()),
                Step::Look => {
                    prop_assert_eq!(upload.failure() == Err(Errno::EBUSY), running);
                    prop_assert_eq!(bench.read() == Err(Errno::ENODEV), running);
                }
            }
            // An update and a load exclude each other.
            prop_assert!(!(upload.is_loading() && upload.status() != UploadStatus::Idle));
        }
        drop(bench.run.take().or_else(|| upload.begin()));
        bench.loading(b"-1");
        prop_assert_eq!(upload.status(), UploadStatus::Idle);
        prop_assert!(!upload.is_loading() && bench.store.is_empty());
        prop_assert!(upload.failure().is_ok());
    }
}
