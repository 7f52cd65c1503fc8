//! The way of messages: from the module's page to the device's mailbox and back.

use pcie::doe::{Header, Object, ObjectType};
use tdx_abi::PhysAddr;
use tdx_abi::connect::ids::{MngOperation, SpdmId};
use tdx_abi::connect::pages::HpaArray;
use tdx_abi::connect::spdm::SpdmConfigInfo;
use tdx_abi::connect::{MESSAGE_PAGE, MIN_OBJECT};
use zerocopy::IntoBytes;

use super::caller::TsmPlatform;
use super::caller::{Caller, MarshalledFn, Slot};
use crate::cpu::CpuSlot;
use crate::doe::{ExchangeError, Mailbox};
use crate::error::HostError;
use crate::page_list::{PageList, RootPage};
use crate::seamcall::{Marshalled, MessagePages};
use crate::sync::RawLock;
use crate::traits::{LeakCounter, Pages};
use crate::tsm::TsmError;

/// Messages of one operation at most. A module gives up long before.
const MAX_MESSAGES: u32 = 1 << 16;
/// Calls that a module may take to see that no answer comes: one that an update has just brought begins the
/// operation anew, and sees it at the next call.
const GIVE_UP_CALLS: u32 = 3;
/// Times in a row that the module may want new keys before it goes on.
const MAX_KEY_UPDATES: u32 = 4;

const TO_MODULE: u64 = 0;
const TO_DEVICE: u64 = MESSAGE_PAGE as u64;
const CONFIG: u64 = 2 * MESSAGE_PAGE as u64;
/// Pages for messages and for the configuration.
const PAGES: usize = 3;

/// Pages by which the module is talked to about one device. The host owns all of them at any time.
#[derive(Debug)]
pub(crate) struct WirePages<L: LeakCounter> {
    messages: PageList<L, PAGES>,
    /// For lists of pages of objects.
    objects: RootPage<L>,
    /// For the list of pages of device information.
    information: RootPage<L>,
}

impl<L: LeakCounter> WirePages<L> {
    fn alloc<C, K, P, E>(caller: &Caller<'_, C, K, P, E>) -> Result<Self, HostError>
    where
        C: AsRef<[CpuSlot]> + Sync,
        K: Sync,
        P: TsmPlatform + Pages<Leaks = L> + ?Sized,
        E: RawLock + Sync,
    {
        let (platform, node) = (caller.platform, caller.node());
        let messages = PageList::alloc(platform, PAGES, node)?;
        let objects = match RootPage::alloc(platform, node) {
            Ok(page) => page,
            Err(error) => {
                messages.free(platform);
                return Err(error);
            }
        };
        match RootPage::alloc(platform, node) {
            Ok(information) => Ok(Self { messages, objects, information }),
            Err(error) => {
                messages.free(platform);
                objects.free(platform);
                Err(error)
            }
        }
    }

    fn free<P: Pages<Leaks = L> + ?Sized>(self, platform: &P) {
        self.messages.free(platform);
        self.objects.free(platform);
        self.information.free(platform);
    }

    fn page(&self, offset: u64) -> PhysAddr {
        let index = usize::try_from(offset / MESSAGE_PAGE as u64).unwrap_or(usize::MAX);
        self.messages.addresses().nth(index).unwrap_or_default()
    }

    /// The two pages of messages.
    fn messages(&self) -> MessagePages {
        MessagePages { to_module: self.page(TO_MODULE), to_device: self.page(TO_DEVICE) }
    }
}

/// The way between the module and one device. Nothing else uses the device's mailbox.
#[derive(Debug)]
pub struct Wire<L: LeakCounter> {
    mailbox: Mailbox,
    pages: Option<WirePages<L>>,
    request: [u8; MESSAGE_PAGE],
    response: [u8; MESSAGE_PAGE],
    messages: u64,
    key_updates: u64,
}

impl<L: LeakCounter> Wire<L> {
    /// 4 KiB pages that it takes while the device is connected: for messages, and for lists of pages.
    pub const PAGES: usize = PAGES + 2;

    /// The way through `mailbox`.
    pub const fn new(mailbox: Mailbox) -> Self {
        Self {
            mailbox,
            pages: None,
            request: [0; MESSAGE_PAGE],
            response: [0; MESSAGE_PAGE],
            messages: 0,
            key_updates: 0,
        }
    }

    /// The mailbox.
    pub const fn mailbox(&self) -> &Mailbox {
        &self.mailbox
    }

    /// The mailbox, to ask what it takes or to tell it of a reset.
    pub const fn mailbox_mut(&mut self) -> &mut Mailbox {
        &mut self.mailbox
    }

    /// Messages that went to the device and back since it was connected.
    pub const fn messages(&self) -> u64 {
        self.messages
    }

    /// Times that the session's keys were made anew since the device was connected.
    pub const fn key_updates(&self) -> u64 {
        self.key_updates
    }

    /// Takes the pages that messages need.
    pub(crate) fn open<C, K, P, E>(&mut self, caller: &Caller<'_, C, K, P, E>) -> Result<(), TsmError>
    where
        C: AsRef<[CpuSlot]> + Sync,
        K: Sync,
        P: TsmPlatform + Pages<Leaks = L> + ?Sized,
        E: RawLock + Sync,
    {
        let device = caller.device;
        let pages = WirePages::alloc(caller).map_err(|_| TsmError::NoMessagePages { device })?;
        self.pages = Some(pages);
        (self.messages, self.key_updates) = (0, 0);
        Ok(())
    }

    /// Gives the pages back. No call of the module names them any more.
    pub(crate) fn close<P: Pages<Leaks = L> + ?Sized>(&mut self, platform: &P) {
        if let Some(pages) = self.pages.take() {
            pages.free(platform);
        }
        // The last message of a session is nobody's business.
        self.request.fill(0);
        self.response.fill(0);
    }

    fn pages<C, K, P: ?Sized, E>(&self, caller: &Caller<'_, C, K, P, E>) -> Result<&WirePages<L>, TsmError> {
        self.pages.as_ref().ok_or(TsmError::NotConnected { device: caller.device })
    }

    /// The pages of messages.
    pub(crate) fn message_pages<C, K, P: ?Sized, E>(
        &self,
        caller: &Caller<'_, C, K, P, E>,
    ) -> Result<MessagePages, TsmError> {
        self.pages(caller).map(WirePages::messages)
    }

    /// The page for lists of pages of objects.
    pub(crate) fn objects<C, K, P: ?Sized, E>(
        &self,
        caller: &Caller<'_, C, K, P, E>,
    ) -> Result<&RootPage<L>, TsmError> {
        self.pages(caller).map(|pages| &pages.objects)
    }

    /// HPA_ARRAY_T of pages for device information.
    pub(crate) fn information<C, K, P, E>(
        &self,
        caller: &Caller<'_, C, K, P, E>,
        list: &PageList<L>,
    ) -> Result<HpaArray, TsmError>
    where
        C: AsRef<[CpuSlot]> + Sync,
        K: Sync,
        P: TsmPlatform + Pages<Leaks = L> + ?Sized,
        E: RawLock + Sync,
    {
        let array = self.pages(caller)?.information.hpa_array(caller.platform, list);
        array.map_err(|error| caller.host_failed(error, list.count()))
    }

    /// Writes the configuration page of TDH.SPDM.CONNECT; where it is.
    pub(crate) fn write_config<C, K, P, E>(
        &mut self,
        caller: &Caller<'_, C, K, P, E>,
        info: SpdmConfigInfo,
    ) -> Result<PhysAddr, TsmError>
    where
        C: AsRef<[CpuSlot]> + Sync,
        K: Sync,
        P: TsmPlatform + Pages<Leaks = L> + ?Sized,
        E: RawLock + Sync,
    {
        self.response.fill(0);
        let bytes = info.as_bytes();
        if let Some(place) = self.response.get_mut(..bytes.len()) {
            place.copy_from_slice(bytes);
        }
        let pages = self.pages(caller)?;
        pages.messages.write(caller.platform, CONFIG, &self.response).map_err(caller.access())?;
        Ok(pages.page(CONFIG))
    }

    /// Runs a leaf to its end: carries its messages to the device and back, and makes the session's keys
    /// anew when they are used up. Bytes of output.
    ///
    /// When the device does not answer, the module is told so, and ends the operation too.
    pub(crate) fn run<C, K, P, E>(
        &mut self,
        caller: &Caller<'_, C, K, P, E>,
        session: SpdmId,
        slot: Slot,
        call: &MarshalledFn<'_, P>,
    ) -> Result<u64, TsmError>
    where
        C: AsRef<[CpuSlot]> + Sync,
        K: Sync,
        P: TsmPlatform + Pages<Leaks = L> + ?Sized,
        E: RawLock + Sync,
    {
        let mut updates = 0;
        self.run_with(caller, slot, call, &mut |wire| {
            updates += 1;
            if updates > MAX_KEY_UPDATES {
                return Err(TsmError::NoEnd { device: caller.device, messages: updates });
            }
            wire.update_keys(caller, session)
        })
    }

    /// Makes the keys of the session anew.
    pub(crate) fn update_keys<C, K, P, E>(
        &mut self,
        caller: &Caller<'_, C, K, P, E>,
        session: SpdmId,
    ) -> Result<(), TsmError>
    where
        C: AsRef<[CpuSlot]> + Sync,
        K: Sync,
        P: TsmPlatform + Pages<Leaks = L> + ?Sized,
        E: RawLock + Sync,
    {
        let messages = self.message_pages(caller)?;
        let operation = MngOperation::KEY_UPDATE;
        let call: &MarshalledFn<'_, P> = &|port, pin| port.spdm_mng(pin, session, operation, messages, None);
        // It never wants new keys itself: that would be round in circles.
        let device = caller.device;
        self.run_with(caller, Slot::Extension, call, &mut |_| Err(TsmError::NoEnd { device, messages: 0 }))?;
        self.key_updates += 1;
        Ok(())
    }

    fn run_with<C, K, P, E>(
        &mut self,
        caller: &Caller<'_, C, K, P, E>,
        slot: Slot,
        call: &MarshalledFn<'_, P>,
        keys_used_up: &mut dyn FnMut(&mut Self) -> Result<(), TsmError>,
    ) -> Result<u64, TsmError>
    where
        C: AsRef<[CpuSlot]> + Sync,
        K: Sync,
        P: TsmPlatform + Pages<Leaks = L> + ?Sized,
        E: RawLock + Sync,
    {
        for _ in 0..MAX_MESSAGES {
            match caller.marshalled(slot, call) {
                Ok(Marshalled::Done { bytes }) => return Ok(bytes),
                Ok(Marshalled::Send { bytes }) => {
                    if let Err(error) = self.exchange(caller, bytes) {
                        self.give_up(caller, slot, call);
                        return Err(error);
                    }
                }
                Ok(Marshalled::KeysUsedUp) => keys_used_up(self)?,
                Err(failure) => return Err(caller.failed(failure)),
            }
        }
        self.give_up(caller, slot, call);
        Err(TsmError::NoEnd { device: caller.device, messages: MAX_MESSAGES })
    }

    /// Carries the object that the module left in its page to the device, and the answer back.
    fn exchange<C, K, P, E>(&mut self, caller: &Caller<'_, C, K, P, E>, bytes: u64) -> Result<(), TsmError>
    where
        C: AsRef<[CpuSlot]> + Sync,
        K: Sync,
        P: TsmPlatform + Pages<Leaks = L> + ?Sized,
        E: RawLock + Sync,
    {
        let device = caller.device;
        let bad = TsmError::BadRequest { device, bytes };
        let size = usize::try_from(bytes).map_err(|_| bad)?;
        if bytes < MIN_OBJECT || size > MESSAGE_PAGE {
            return Err(bad);
        }
        let pages = self.pages.as_ref().ok_or(TsmError::NotConnected { device })?;
        // Taken out once: what is checked is what is sent.
        let object = self.request.get_mut(..size).ok_or(bad)?;
        pages.messages.read(caller.platform, TO_DEVICE, object).map_err(caller.access())?;
        let object = Object::parse(object).map_err(|_| bad)?;
        if !matches!(object.object_type, ObjectType::SPDM | ObjectType::SECURED_SPDM) {
            return Err(bad);
        }
        let (header, payload) = self.response.split_at_mut(Header::BYTES);
        let answered = self.mailbox.exchange(caller.platform, object, payload);
        let answered = answered.map_err(|error| exchange_failed(device, error))?;
        // As long as the page at most, as the mailbox was told.
        let length = Header::new(object.object_type, answered).map_err(|_| bad)?;
        header.copy_from_slice(&length.to_bytes());
        let answer = self.response.get(..length.length.bytes()).unwrap_or(&self.response);
        pages.messages.write(caller.platform, TO_MODULE, answer).map_err(caller.access())?;
        self.messages += 1;
        Ok(())
    }

    /// Tells the module that no answer comes: it finds no object in its page and ends the operation.
    fn give_up<C, K, P, E>(&mut self, caller: &Caller<'_, C, K, P, E>, slot: Slot, call: &MarshalledFn<'_, P>)
    where
        C: AsRef<[CpuSlot]> + Sync,
        K: Sync,
        P: TsmPlatform + Pages<Leaks = L> + ?Sized,
        E: RawLock + Sync,
    {
        self.response.fill(0);
        let Some(pages) = &self.pages else { return };
        if pages.messages.write(caller.platform, TO_MODULE, &self.response).is_err() {
            return;
        }
        for _ in 0..GIVE_UP_CALLS {
            // It ends in an error, which is what is wanted.
            if !matches!(caller.marshalled(slot, call), Ok(Marshalled::Send { .. })) {
                return;
            }
        }
    }
}

fn exchange_failed(device: pcie::FunctionId, error: ExchangeError) -> TsmError {
    match error {
        ExchangeError::Gone => TsmError::DeviceGone { device },
        ExchangeError::Mailbox(pcie::doe::DoeError::Dead) => TsmError::MailboxDead { device },
        ExchangeError::Mailbox(error) => TsmError::ExchangeFailed { device, error },
    }
}
