//! A shared object that holds nothing but symbols with fixed addresses.
//!
//! ELF has absolute symbols (`SHN_ABS`), which a loader hands out as they are. So the object needs neither
//! code nor relocations: two mapped pages of tables, of which the loader writes to one. glibc treats absolute
//! symbols so since 2.28.

const HEADER_SIZE: usize = 64;
const PROGRAM_HEADER_SIZE: usize = 56;
const PROGRAM_HEADERS: usize = 4;
const SYMBOL_SIZE: usize = 24;
const PAGE: usize = 1 << 16;

#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = 62;
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = 183;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("the number of this machine in ELF headers is missing here");

const TYPE_SHARED_OBJECT: u16 = 3;
const LOAD: u32 = 1;
const DYNAMIC: u32 = 2;
const GNU_STACK: u32 = 0x6474_e551;
const WRITE: u32 = 2;
const READ: u32 = 4;
/// Tags of the dynamic section.
const DT_NULL: u64 = 0;
const DT_HASH: u64 = 4;
const DT_STRTAB: u64 = 5;
const DT_SYMTAB: u64 = 6;
const DT_STRSZ: u64 = 10;
const DT_SYMENT: u64 = 11;
const DT_SONAME: u64 = 14;
/// A global function, at an absolute address.
const GLOBAL_FUNCTION: u8 = 1 << 4 | 2;
const ABSOLUTE: u16 = 0xfff1;

/// Bytes in the making.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn u16(&mut self, value: u16) -> &mut Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u64s<const N: usize>(&mut self, values: [u64; N]) -> &mut Self {
        values.into_iter().for_each(|value| self.0.extend(value.to_le_bytes()));
        self
    }

    /// Fills up to an alignment; the offset of what comes next.
    fn align(&mut self, alignment: usize) -> usize {
        self.0.resize(self.0.len().next_multiple_of(alignment), 0);
        self.0.len()
    }
}

/// The hash of a name, as the System V ABI defines it.
fn hash(name: &str) -> u32 {
    name.bytes().fold(0, |hash: u32, byte| {
        let hash = (hash << 4).wrapping_add(byte.into());
        let high = hash & 0xf000_0000;
        (hash ^ high >> 24) & !high
    })
}

/// Names, each once, with NULs; offset 0 is the empty one.
struct Names(Vec<u8>);

impl Names {
    fn add(&mut self, name: &str) -> u32 {
        let at = self.0.len() as u32;
        self.0.extend(name.bytes().chain([0]));
        at
    }
}

/// The shared object of this name with these symbols.
pub fn build(name: &str, symbols: &[(&str, u64)]) -> Vec<u8> {
    let mut names = Names(vec![0]);
    let soname = names.add(name);

    let mut table = Bytes::default();
    table.u64s([0; SYMBOL_SIZE / 8]);
    for (symbol, address) in symbols {
        table.u32(names.add(symbol));
        table.0.extend([GLOBAL_FUNCTION, 0]);
        table.u16(ABSOLUTE).u64s([*address, 0]);
    }

    // Chains of symbols with the same remainder of their hash.
    let buckets = symbols.len().max(1);
    let mut first = vec![0u32; buckets];
    let mut next = vec![0u32; symbols.len() + 1];
    for (index, (symbol, _)) in (1u32..).zip(symbols) {
        let bucket = &mut first[hash(symbol) as usize % buckets];
        next[index as usize] = std::mem::replace(bucket, index);
    }

    let mut file = Bytes(vec![0; HEADER_SIZE + PROGRAM_HEADERS * PROGRAM_HEADER_SIZE]);
    let symbols_at = file.align(8);
    file.0.extend(&table.0);
    let hash_at = file.align(8);
    file.u32(buckets as u32).u32(next.len() as u32);
    for &index in first.iter().chain(&next) {
        file.u32(index);
    }
    let names_at = file.align(8);
    file.0.extend(&names.0);
    let read_only = file.0.len() as u64;

    // The loader writes to the dynamic section, which so has a page of its own.
    let dynamic_at = file.align(PAGE) as u64;
    file.u64s([DT_SONAME, soname.into(), DT_HASH, hash_at as u64, DT_SYMTAB, symbols_at as u64]);
    file.u64s([DT_SYMENT, SYMBOL_SIZE as u64, DT_STRTAB, names_at as u64, DT_STRSZ, names.0.len() as u64]);
    file.u64s([DT_NULL, 0]);
    let dynamic_size = file.0.len() as u64 - dynamic_at;

    let mut header = Bytes(b"\x7fELF\x02\x01\x01".to_vec());
    header.align(16);
    header.u16(TYPE_SHARED_OBJECT).u16(MACHINE).u32(1);
    // No entry, program headers right behind, no section headers.
    header.u64s([0, HEADER_SIZE as u64, 0]).u32(0);
    header.u16(HEADER_SIZE as u16).u16(PROGRAM_HEADER_SIZE as u16).u16(PROGRAM_HEADERS as u16);
    header.u16(0).u16(0).u16(0);
    let mut segment = |kind: u32, flags: u32, at: u64, size: u64, alignment: u64| {
        header.u32(kind).u32(flags).u64s([at, at, at, size, size, alignment]);
    };
    segment(LOAD, READ, 0, read_only, PAGE as u64);
    segment(LOAD, READ | WRITE, dynamic_at, dynamic_size, PAGE as u64);
    segment(DYNAMIC, READ | WRITE, dynamic_at, dynamic_size, 8);
    // Without this the loader takes it that the stack has to be executable.
    segment(GNU_STACK, READ | WRITE, 0, 0, 16);
    file.0[..header.0.len()].copy_from_slice(&header.0);
    file.0
}
