//! A GGUF file put together byte by byte, lies included.

/// A metadata value.
pub enum Meta<'a> {
    U32(u32),
    F32(f32),
    Str(&'a str),
    /// A string of these bytes.
    Bytes(&'a [u8]),
    /// A string that claims to be this long.
    StrOfLength(u64),
    /// An array that claims this element type and length, and has no elements.
    ArrayOfKind(u32, u64),
    /// A type number and nothing more.
    RawKind(u32),
}

/// What goes into the file.
pub struct Builder {
    version: u32,
    counts: Option<(u64, u64)>,
    metadata: Vec<u8>,
    metadata_count: u64,
    tensors: Vec<u8>,
    tensor_count: u64,
    data: Vec<u8>,
    padded: bool,
}

fn string(out: &mut Vec<u8>, text: &[u8]) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text);
}

impl Builder {
    pub fn new() -> Builder {
        Builder {
            version: 3,
            counts: None,
            metadata: vec![],
            metadata_count: 0,
            tensors: vec![],
            tensor_count: 0,
            data: vec![],
            padded: true,
        }
    }

    pub fn version(self, version: u32) -> Builder {
        Builder { version, ..self }
    }

    /// Numbers of tensors and metadata entries to claim instead of the true ones.
    pub fn counts(self, tensors: u64, metadata: u64) -> Builder {
        Builder { counts: Some((tensors, metadata)), ..self }
    }

    pub fn meta(mut self, key: &str, value: Meta<'_>) -> Builder {
        let out = &mut self.metadata;
        string(out, key.as_bytes());
        let mut kind = |code: u32| out.extend(code.to_le_bytes());
        match value {
            Meta::U32(v) => {
                kind(4);
                out.extend(v.to_le_bytes());
            }
            Meta::F32(v) => {
                kind(6);
                out.extend(v.to_le_bytes());
            }
            Meta::Str(v) => {
                kind(8);
                string(out, v.as_bytes());
            }
            Meta::Bytes(v) => {
                kind(8);
                string(out, v);
            }
            Meta::StrOfLength(length) => {
                kind(8);
                out.extend(length.to_le_bytes());
            }
            Meta::ArrayOfKind(element, length) => {
                kind(9);
                kind(element);
                out.extend(length.to_le_bytes());
            }
            Meta::RawKind(code) => kind(code),
        }
        self.metadata_count += 1;
        self
    }

    /// Describes a tensor (axes innermost first) and makes the data at least `data` bytes long.
    pub fn tensor(mut self, name: &str, axes: &[u64], kind: u32, offset: u64, data: usize) -> Builder {
        string(&mut self.tensors, name.as_bytes());
        self.tensors.extend((axes.len() as u32).to_le_bytes());
        for axis in axes {
            self.tensors.extend(axis.to_le_bytes());
        }
        self.tensors.extend(kind.to_le_bytes());
        self.tensors.extend(offset.to_le_bytes());
        self.tensor_count += 1;
        let length = self.data.len().max(data);
        self.data.resize(length, 0);
        self
    }

    pub fn data(self, data: Vec<u8>) -> Builder {
        Builder { data, ..self }
    }

    /// Leaves out the padding before the data.
    pub fn unpadded(self) -> Builder {
        Builder { padded: false, ..self }
    }

    pub fn build(self) -> Vec<u8> {
        let (tensors, metadata) = self.counts.unwrap_or((self.tensor_count, self.metadata_count));
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(tensors.to_le_bytes());
        bytes.extend(metadata.to_le_bytes());
        bytes.extend(self.metadata);
        bytes.extend(self.tensors);
        if self.padded {
            bytes.resize(bytes.len().next_multiple_of(32), 0);
        }
        bytes.extend(self.data);
        bytes
    }
}
