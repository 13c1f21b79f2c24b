//! Accesses to memory.

use super::{Env, Flow, Step, first, trouble};
use crate::machine::{
    FaultKind,
    alu::{self, lanes_of},
    lanes::File,
    op::{Address, Inst, MbarrierKind, NONE, Op, Order, Scope, Shape, Slot},
    printf,
    spaces::{Site, Trouble},
    warp::Warp,
    windows,
};

/// Bytes that the lanes of an access hold at most: 32 each.
const BYTES: usize = 1024;
/// Bytes that a block prints at most: many times what the buffer of a device holds.
const MAX_OUTPUT: usize = 16 << 20;

/// The addresses of `[register + offset]`.
#[inline(always)]
pub(super) fn addresses(file: &File, address: Address, slot: Slot) -> [u64; 32] {
    let offset = i64::from(address.offset) as u64;
    if slot == NONE {
        return [offset; 32];
    }
    if address.wide {
        return file.lanes::<u64>(slot).map(|base| base.wrapping_add(offset));
    }
    // An address of 32 bits wraps around in 32 bits.
    file.lanes::<u32>(slot).map(|base| u64::from(base.wrapping_add(address.offset as u32)))
}

/// Writes what a load brought to its registers.
#[inline(always)]
fn scatter(file: &mut File, o: &[Slot], shape: Shape, data: &[u8; BYTES], mask: u32) {
    let (count, bytes) = (shape.count as usize, shape.bytes as usize);
    let stride = count * bytes;
    for (element, &slot) in o[..count].iter().enumerate() {
        let at = |lane: usize| lane * stride + element * bytes;
        match bytes {
            8 => {
                let values: [u64; 32] =
                    std::array::from_fn(|l| bytemuck::pod_read_unaligned(&data[at(l)..at(l) + 8]));
                file.store(slot, &values, mask);
            }
            4 => {
                let values: [u32; 32] =
                    std::array::from_fn(|l| bytemuck::pod_read_unaligned(&data[at(l)..at(l) + 4]));
                if shape.wide {
                    let extend = |v: u32| if shape.signed { v as i32 as i64 as u64 } else { u64::from(v) };
                    file.store(slot, &values.map(extend), mask);
                } else {
                    file.store(slot, &values, mask);
                }
            }
            _ => {
                let values: [u64; 32] = std::array::from_fn(|lane| {
                    let low = u16::from(data[at(lane)]);
                    let value = if bytes == 2 { low | u16::from(data[at(lane) + 1]) << 8 } else { low };
                    match (shape.signed, bytes) {
                        (false, _) => u64::from(value),
                        (true, 2) => value as i16 as i64 as u64,
                        (true, _) => value as u8 as i8 as i64 as u64,
                    }
                });
                alu::write(file, slot, shape.wide, &values, mask);
            }
        }
    }
}

/// Collects what a store takes from its registers.
#[inline(always)]
fn gather(file: &File, o: &[Slot], shape: Shape, data: &mut [u8; BYTES]) {
    let (count, bytes) = (shape.count as usize, shape.bytes as usize);
    let stride = count * bytes;
    for (element, &slot) in o[..count].iter().enumerate() {
        if bytes == 4 && !shape.wide {
            for (lane, value) in file.lanes::<u32>(slot).iter().enumerate() {
                let at = lane * stride + element * 4;
                data[at..at + 4].copy_from_slice(&value.to_le_bytes());
            }
            continue;
        }
        for (lane, value) in alu::read(file, slot, shape.wide).iter().enumerate() {
            let at = lane * stride + element * bytes;
            data[at..at + bytes].copy_from_slice(&value.to_le_bytes()[..bytes]);
        }
    }
}

impl Env<'_> {
    /// Runs an instruction that goes to memory, or orders accesses to it.
    pub(super) fn memory(&mut self, warp: &mut Warp, inst: &Inst, site: Site, active: u32) -> Step {
        let o = &inst.o;
        let file = &mut warp.file;
        match inst.op {
            Op::Load(address, shape, order) => {
                let at = addresses(file, address, o[shape.count as usize]);
                let mut data = [0; BYTES];
                self.before(order, shape.strong, site, active);
                self.spaces.load(site, address.window, &at, active, shape, &mut data)?;
                self.after(order, shape.strong, site, active);
                scatter(file, o, shape, &data, active);
            }
            Op::Store(address, shape, order) => {
                let at = addresses(file, address, o[0]);
                let mut data = [0; BYTES];
                gather(file, &o[1..], shape, &mut data);
                let undefined = match inst.tracked && self.registers {
                    true => self.stored(warp, site.pc, address, &at, active, shape)?,
                    false => None,
                };
                self.before(order, shape.strong, site, active);
                self.spaces.store(site, address.window, &at, active, shape, &data)?;
                self.after(order, shape.strong, site, active);
                if let Some(bytes) = undefined {
                    self.spaces.unwrite(site.warp, address.window, &at, active, &bytes);
                }
            }
            Op::Atomic(address, kind, ty, order, scope) => {
                let at = addresses(file, address, o[1]);
                let wide = ty.wide();
                let a = alu::read(file, o[2], wide);
                let b = if o[3] == NONE { [0; 32] } else { alu::read(file, o[3], wide) };
                let mut old = [0; 32];
                self.before(order, Some(scope), site, active);
                self.spaces.atomic(site, address.window, &at, active, kind, ty, scope, &a, &b, &mut old)?;
                self.after(order, Some(scope), site, active);
                alu::write(file, o[0], wide, &old, active);
            }
            Op::IsSpace(window) => {
                let lies = file.lanes::<u64>(o[1]).map(|a| u32::from(windows::resolve(a).0 == window));
                let bits = lies.iter().enumerate().fold(0, |all, (lane, bit)| all | bit << lane);
                file.set_pred(o[0], bits, active);
            }
            Op::Cvta { window, to } => {
                let base = windows::base(window);
                let values = file.lanes::<u64>(o[1]);
                let values = values.map(|a| if to { a.wrapping_sub(base) } else { a.wrapping_add(base) });
                file.store(o[0], &values, active);
            }
            Op::CpAsync { bytes, to, from, sized, ignore } => {
                let shared = addresses(file, to, o[0]);
                let global = addresses(file, from, o[1]);
                let mut sizes = [u32::from(bytes); 32];
                if sized {
                    sizes = *file.lanes::<u32>(o[2]);
                }
                if ignore {
                    let none = file.pred(o[2]);
                    lanes_of(none).for_each(|lane| sizes[lane] = 0);
                }
                self.spaces.cp_async(site, &shared, from.window, &global, active, bytes, &sizes)?;
            }
            Op::CpAsyncCommit => self.spaces.cp_async_commit(site, active),
            Op::CpAsyncWait(pending) => self.spaces.cp_async_wait(site, active, Some(pending)),
            Op::CpAsyncWaitAll => self.spaces.cp_async_wait(site, active, None),
            Op::CpAsyncArrive { address, noinc } => {
                let at = addresses(file, address, o[0]);
                self.spaces.cp_async_arrive(site, address.window, &at, active, noinc)?;
            }
            Op::Mbarrier(kind, address) => return self.mbarrier(warp, inst, site, kind, address, active),
            Op::Fence(scope) => self.spaces.fence(site.warp, active, scope),
            Op::Printf { format, arguments } => self.print(site, format, arguments, active)?,
            Op::AssertFail { at } => return Err(self.assertion(site, at, first(active))?),
            _ => unreachable!("`step` sends only these here"),
        }
        Ok(Flow::Next)
    }

    /// A release is a fence for the access alone, before it.
    #[inline(always)]
    fn before(&mut self, order: Order, scope: Option<Scope>, site: Site, active: u32) {
        if order != Order::None {
            self.spaces.begin(site.warp, active, order, scope.unwrap_or(Scope::Device));
        }
    }

    /// An acquire is a fence for the access alone, after it.
    #[inline(always)]
    fn after(&mut self, order: Order, scope: Option<Scope>, site: Site, active: u32) {
        if order != Order::None {
            self.spaces.end(site.warp, active, order, scope.unwrap_or(Scope::Device));
        }
    }

    fn mbarrier(
        &mut self,
        warp: &mut Warp,
        inst: &Inst,
        site: Site,
        kind: MbarrierKind,
        address: Address,
        active: u32,
    ) -> Step {
        let o = &inst.o;
        let file = &mut warp.file;
        let at = addresses(file, address, o[1]);
        // States have 64 bits, counts and parities 32.
        let wide = matches!(kind, MbarrierKind::PendingCount | MbarrierKind::Test { parity: false, .. });
        let operands = if o[2] == NONE { [1; 32] } else { alu::read(file, o[2], wide) };
        let result = self.spaces.mbarrier(site, kind, address.window, &at, active, &operands)?;
        match kind {
            MbarrierKind::Test { try_wait, .. } => {
                file.set_pred(o[0], result.complete, active);
                // Whoever has to wait lets others run.
                if try_wait && active & !result.complete != 0 {
                    return Ok(Flow::Yield);
                }
            }
            MbarrierKind::Arrive { .. } => alu::write(file, o[0], true, &result.values, active),
            MbarrierKind::PendingCount => alu::write(file, o[0], false, &result.values, active),
            MbarrierKind::Init | MbarrierKind::Inval => {}
        }
        Ok(Flow::Next)
    }

    /// A word of a thread's local memory.
    fn local_word(&self, site: Site, lane: usize, offset: u32, size: usize) -> Result<u64, Box<Trouble>> {
        let mut bytes = [0; 8];
        let address = windows::LOCAL + u64::from(offset);
        self.spaces.peek(site.warp, lane as u32, address, &mut bytes[..size])?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// A string that ends with a zero.
    fn string(&self, site: Site, lane: usize, address: u64) -> Result<Vec<u8>, Box<Trouble>> {
        let mut text = Vec::new();
        loop {
            let mut byte = [0];
            let at = address.wrapping_add(text.len() as u64);
            self.spaces.peek(site.warp, lane as u32, at, &mut byte)?;
            if byte == [0] || text.len() == 4096 {
                return Ok(text);
            }
            text.extend(byte);
        }
    }

    #[cold]
    fn print(&mut self, site: Site, format: u32, arguments: u32, active: u32) -> Result<(), Box<Trouble>> {
        for lane in lanes_of(active) {
            let text = self.local_word(site, lane, format, 8)?;
            let text = self.string(site, lane, text)?;
            let mut at = self.local_word(site, lane, arguments, 8)?;
            let argument = |size: u32| {
                // Any address may stand there; past the last one it is out of bounds.
                at = at.checked_next_multiple_of(u64::from(size))?;
                let mut bytes = [0; 8];
                self.spaces.peek(site.warp, lane as u32, at, &mut bytes[..size as usize]).ok()?;
                at = at.wrapping_add(u64::from(size));
                Some(u64::from_le_bytes(bytes))
            };
            let line = printf::format(&text, argument, |address| self.string(site, lane, address).ok());
            let line = line.ok_or_else(|| {
                let text = String::from_utf8_lossy(&text);
                trouble(FaultKind::Undefined, lane, format!("printf({text:?}) has too few arguments"))
            })?;
            self.output.extend(line);
            if self.output.len() > MAX_OUTPUT {
                let message = format!("the block has printed more than {MAX_OUTPUT} bytes: the limit");
                return Err(trouble(FaultKind::Limit, lane, message));
            }
        }
        Ok(())
    }

    #[cold]
    fn assertion(&self, site: Site, at: u32, lane: usize) -> Result<Box<Trouble>, Box<Trouble>> {
        let [message, file, line, function] = self.program.assertions[at as usize];
        let text = |offset: u32| -> Result<String, Box<Trouble>> {
            let address = self.local_word(site, lane, offset, 8)?;
            Ok(String::from_utf8_lossy(&self.string(site, lane, address)?).into_owned())
        };
        let line = self.local_word(site, lane, line, 4)?;
        let words =
            format!("{}:{line}: {}: assertion `{}` failed", text(file)?, text(function)?, text(message)?);
        Ok(trouble(FaultKind::Assert, lane, words))
    }
}

impl crate::machine::op::AtomicType {
    /// Whether its registers have 64 bits.
    pub(super) fn wide(self) -> bool {
        matches!(self, Self::U64 | Self::S64 | Self::F64)
    }
}
