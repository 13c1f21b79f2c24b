//! Declarations of variables: state space, type, array sizes and initial values.

use super::{
    Parsed,
    ast::{Linkage, Relocation, Space, Symbol, Type, Variable, VariableId},
    cursor::{Parser, fail},
    lexer::{Kind, Token},
    names::Entity,
};

/// Size of a variable at most. The machine has its own, smaller limits; this one keeps sums of sizes from overflowing.
const MAX_SIZE: u64 = 1 << 40;
/// Alignment at most.
const MAX_ALIGN: u32 = 1 << 20;

/// What comes before the names in a declaration.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub ty: Type,
    /// Components of a vector, 1 for a scalar.
    pub width: u32,
    /// `.align`, if given.
    pub align: Option<u32>,
}

impl Shape {
    /// Bytes of one element, the whole vector.
    pub fn size(self) -> u32 {
        self.ty.size() * self.width
    }
}

/// The initial value of a variable.
struct Initial<'d> {
    ty: Type,
    /// Array sizes and, for a vector, its width; an open first size is none.
    extents: &'d [Option<u64>],
    /// Bytes from one element of each extent to the next.
    strides: &'d [u64],
    /// Elements found for the first extent.
    count: u64,
    bytes: Vec<u8>,
    relocations: Vec<Relocation>,
}

/// The space that a directive names, if it is one.
pub(super) fn space_named(name: &str) -> Option<Space> {
    Some(match name {
        "global" => Space::Global,
        "const" => Space::Const,
        "shared" => Space::Shared,
        "local" => Space::Local,
        "param" => Space::Param,
        _ => return None,
    })
}

impl<'a> Parser<'a> {
    /// `[.align 8] [.v2] .f32`
    pub fn shape(&mut self) -> Parsed<Shape> {
        if self.peek().kind == Kind::Dot && self.peek().text == "attribute" {
            return Err(fail(self.peek(), "variables with attributes (managed, unified) are not supported"));
        }
        let align = self.alignment()?;
        let width = if self.eat_dot("v2") {
            2
        } else if self.eat_dot("v4") {
            4
        } else {
            1
        };
        let token = self.take(Kind::Dot, "a type")?;
        let ty = match (Type::named(token.text), token.text) {
            (Some(ty), _) => ty,
            (None, "texref" | "samplerref" | "surfref") => {
                return Err(fail(
                    token,
                    format!("textures and surfaces (.{}) are not supported", token.text),
                ));
            }
            _ => return Err(fail(token, format!(".{} is not a type", token.text))),
        };
        let shape = Shape { ty, width, align };
        if shape.size() > 16 {
            return Err(fail(token, "a vector has at most 128 bits"));
        }
        Ok(shape)
    }

    /// `.align 8`, if it is next.
    pub fn alignment(&mut self) -> Parsed<Option<u32>> {
        if !self.eat_dot("align") {
            return Ok(None);
        }
        let token = self.peek();
        match self.number("an alignment")? {
            align if align.is_power_of_two() && align <= MAX_ALIGN => Ok(Some(align)),
            align => {
                Err(fail(token, format!("an alignment is a power of two up to {MAX_ALIGN}, not {align}")))
            }
        }
    }

    /// `[4][2]`, `[]`: the size of each dimension; an open first one is none.
    pub fn array_sizes(&mut self) -> Parsed<Vec<Option<u64>>> {
        let mut sizes = Vec::new();
        while self.eat("[") {
            if sizes.is_empty() && self.eat("]") {
                sizes.push(None);
                continue;
            }
            let token = self.peek();
            let size = self.integer_constant("an array size")?;
            match u64::try_from(size) {
                Ok(size) if (1..=MAX_SIZE).contains(&size) => sizes.push(Some(size)),
                _ => return Err(fail(token, format!("an array cannot have {size} elements"))),
            }
            self.expect("]")?;
        }
        Ok(sizes)
    }

    /// A variable of the given shape and sizes, without initial value; an open size counts as nothing.
    pub fn variable(
        &self,
        name: Token<'a>,
        space: Space,
        linkage: Linkage,
        shape: Shape,
        sizes: &[Option<u64>],
    ) -> Parsed<Variable> {
        if shape.ty == Type::Pred {
            return Err(fail(name, "a predicate cannot lie in memory"));
        }
        let size = sizes
            .iter()
            .try_fold(u64::from(shape.size()), |size, extent| size.checked_mul(extent.unwrap_or(0)))
            .filter(|&size| size <= MAX_SIZE)
            .ok_or_else(|| fail(name, format!("{} is too large", name.text)))?;
        Ok(Variable {
            name: name.text.to_owned(),
            space,
            ty: shape.ty,
            align: shape.align.unwrap_or(shape.size()),
            size,
            init: Vec::new(),
            relocations: Vec::new(),
            linkage,
            line: name.line,
        })
    }

    /// What follows the space in `.global .align 4 .b8 a[4] = {1, 2}, b;`. Returns the variables, declared.
    pub fn variables(&mut self, space: Space, linkage: Linkage) -> Parsed<Vec<VariableId>> {
        let shape = self.shape()?;
        let mut ids = Vec::new();
        loop {
            let name = self.name("the name of a variable")?;
            if self.sees("<") {
                return Err(fail(name, "only registers can be declared as a range"));
            }
            let sizes = self.array_sizes()?;
            let mut variable = self.variable(name, space, linkage, shape, &sizes)?;
            if self.sees("=") {
                self.initialise(&mut variable, shape, &sizes)?;
            } else if sizes.first() == Some(&None) && linkage != Linkage::Extern {
                return Err(fail(name, format!("{} has no size", name.text)));
            }
            ids.push(self.declare_variable(name, variable)?);
            if !self.eat(",") {
                break;
            }
        }
        self.expect(";")?;
        Ok(ids)
    }

    /// Declares a variable in the innermost scope. One that is `.extern` merges with its definition.
    pub fn declare_variable(&mut self, name: Token<'a>, variable: Variable) -> Parsed<VariableId> {
        let id = VariableId(self.module.variables.len() as u32);
        if self.scopes.declare(name.text, Entity::Variable(id)) {
            self.module.variables.push(variable);
            return Ok(id);
        }
        let duplicate = || fail(name, format!("{} is declared already", name.text));
        let Some(Entity::Variable(old)) = self.scopes.find(name.text) else { return Err(duplicate()) };
        let known = &mut self.module.variables[old.0 as usize];
        if known.linkage != Linkage::Extern && variable.linkage != Linkage::Extern {
            return Err(duplicate());
        }
        let sizes_agree = known.size == variable.size || known.size == 0 || variable.size == 0;
        if known.space != variable.space || known.ty != variable.ty || !sizes_agree {
            return Err(fail(name, format!("{} was declared otherwise in line {}", name.text, known.line)));
        }
        if known.linkage == Linkage::Extern {
            *known = variable;
        }
        Ok(old)
    }

    /// `= 1`, `= {{1, 2}, {3, 4}}`, `= {generic(x)+4, 0}`
    fn initialise(&mut self, variable: &mut Variable, shape: Shape, sizes: &[Option<u64>]) -> Parsed<()> {
        let token = self.next();
        if !matches!(variable.space, Space::Global | Space::Const) {
            return Err(fail(token, "only global and constant variables can be initialised"));
        }
        if variable.linkage == Linkage::Extern {
            return Err(fail(token, "an extern variable cannot be initialised"));
        }
        let mut extents = sizes.to_vec();
        if shape.width > 1 {
            extents.push(Some(shape.width.into()));
        }
        // Only where the first size is open can these overflow; what does not fit then is refused below.
        let mut strides = vec![u64::from(shape.ty.size()); extents.len()];
        for at in (1..extents.len()).rev() {
            strides[at - 1] = strides[at].saturating_mul(extents[at].unwrap_or(1));
        }
        let (extents, strides) = (&extents[..], &strides[..]);
        let (bytes, relocations) = (Vec::new(), Vec::new());
        let mut initial = Initial { ty: shape.ty, extents, strides, count: 0, bytes, relocations };
        self.elements(&mut initial, 0, 0)?;
        if sizes.first() == Some(&None) {
            variable.size = initial
                .count
                .checked_mul(strides[0])
                .filter(|size| (1..=MAX_SIZE).contains(size))
                .ok_or_else(|| fail(token, "this initialiser is empty or too large"))?;
        }
        variable.init = initial.bytes;
        variable.relocations = initial.relocations;
        Ok(())
    }

    /// The part of an initialiser that lies at an offset: a list for each extent, and values within the last.
    fn elements(&mut self, initial: &mut Initial<'_>, level: usize, offset: u64) -> Parsed<()> {
        let Some(&extent) = initial.extents.get(level) else { return self.element(initial, offset) };
        self.expect("{")?;
        let mut count = 0u64;
        while !self.sees("}") {
            if extent == Some(count) {
                return Err(fail(
                    self.peek(),
                    format!("more than the {count} values that there is room for"),
                ));
            }
            let too_large = fail(self.peek(), "this initialiser is too large");
            let place = initial.strides[level].checked_mul(count).and_then(|skip| offset.checked_add(skip));
            let place = place.ok_or(too_large)?;
            self.nested(|p| p.elements(initial, level + 1, place))?;
            count += 1;
            if !self.eat(",") {
                break;
            }
            if self.sees("}") {
                return Err(self.unexpected("a value"));
            }
        }
        self.expect("}")?;
        if level == 0 {
            initial.count = count;
        }
        Ok(())
    }

    /// One value of an initialiser.
    fn element(&mut self, initial: &mut Initial<'_>, offset: u64) -> Parsed<()> {
        let token = self.peek();
        let bytes = if token.kind == Kind::Word && token.text != "WARP_SZ" {
            let relocation = self.relocation(initial.ty, offset)?;
            initial.relocations.push(relocation);
            vec![0; initial.ty.size() as usize]
        } else if token.kind == Kind::Str {
            return Err(fail(token, "a string cannot be an initial value"));
        } else {
            let value = self.constant()?;
            if self.sees("(") {
                return Err(fail(token, "masked addresses such as 0xff(x) are not supported"));
            }
            value.bytes(initial.ty).map_err(|message| fail(token, message))?
        };
        let start = initial.bytes.len() as u64;
        let end = offset.saturating_add(bytes.len() as u64);
        let grown = end.saturating_sub(start);
        if grown > self.bytes_left {
            return Err(fail(token, "the initialisers of this module are too large for its text"));
        }
        self.bytes_left -= grown;
        initial.bytes.resize(end.max(start) as usize, 0);
        initial.bytes[offset as usize..end as usize].copy_from_slice(&bytes);
        Ok(())
    }

    /// `x`, `x+4`, `generic(x)+4`
    fn relocation(&mut self, ty: Type, offset: u64) -> Parsed<Relocation> {
        let mut name = self.next();
        let generic = name.text == "generic" && self.eat("(");
        if generic {
            name = self.name("the name of a variable or function")?;
            self.expect(")")?;
        }
        let symbol = match self.scopes.find(name.text) {
            Some(Entity::Variable(id)) => Symbol::Variable(id),
            Some(Entity::Function(id)) => Symbol::Function(id),
            Some(_) => return Err(fail(name, format!("{} has no address", name.text))),
            None => return Err(fail(name, format!("{} is not declared", name.text))),
        };
        if let Symbol::Variable(id) = symbol
            && !matches!(self.module.variables[id.0 as usize].space, Space::Global | Space::Const)
        {
            return Err(fail(name, format!("{} lies in neither global nor constant memory", name.text)));
        }
        if !matches!(ty, Type::U32 | Type::U64) {
            return Err(fail(name, "only variables of type .u32 and .u64 can hold an address"));
        }
        let addend = self.addend()?;
        Ok(Relocation { offset, size: ty.size(), symbol, addend, generic })
    }

    /// `+ 4` after a name, 0 where there is none. As in ptxas there is no `- 4`, only `+-4`.
    pub fn addend(&mut self) -> Parsed<i64> {
        if !self.eat("+") {
            return Ok(0);
        }
        let token = self.peek();
        let value = self.integer_constant("an offset")?;
        i64::try_from(value).map_err(|_| fail(token, format!("offset {value} does not fit 64 bits")))
    }
}
