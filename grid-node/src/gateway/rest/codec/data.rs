//! Reads the `data` of an input into a tensor's memory.

use grid_core::tensor::{AlignedBytes, DataType, Shape, Tensor, append_string};
use half::{bf16, f16};

use super::cursor::{Cursor, Fault};
use super::leaf::{Flag, Leaf};

/// Deepest nesting of `data`: as many dimensions as a shape may have.
const MAX_NESTING: usize = super::decode::MAX_DIMENSIONS;

/// Reads the array that begins here as a tensor. It may be flat or nested; elements come in row-major order.
///
/// An array nested as deeply as the shape must have the shape's sizes at each level; in any other nesting only the
/// number of elements counts, and that all of them are equally deep.
pub(super) fn read(cursor: &mut Cursor<'_>, data_type: DataType, shape: Shape) -> Result<Tensor, Fault> {
    let bytes = match data_type {
        DataType::Bool => fixed::<Flag>(cursor, &shape),
        DataType::Uint8 => fixed::<u8>(cursor, &shape),
        DataType::Uint16 => fixed::<u16>(cursor, &shape),
        DataType::Uint32 => fixed::<u32>(cursor, &shape),
        DataType::Uint64 => fixed::<u64>(cursor, &shape),
        DataType::Int8 => fixed::<i8>(cursor, &shape),
        DataType::Int16 => fixed::<i16>(cursor, &shape),
        DataType::Int32 => fixed::<i32>(cursor, &shape),
        DataType::Int64 => fixed::<i64>(cursor, &shape),
        DataType::Fp16 => fixed::<f16>(cursor, &shape),
        DataType::Bf16 => fixed::<bf16>(cursor, &shape),
        DataType::Fp32 => fixed::<f32>(cursor, &shape),
        DataType::Fp64 => fixed::<f64>(cursor, &shape),
        DataType::Bytes => strings(cursor, &shape),
    }?;
    Tensor::new(data_type, shape, bytes.freeze()).map_err(|error| Fault::Refused(error.to_string()))
}

/// The number of elements, if the text that is left can hold so many. Memory is taken for them before they are read,
/// so a shape must not be able to ask for more than a few bytes for each byte that was sent.
fn expected(cursor: &Cursor<'_>, shape: &Shape) -> Result<usize, Fault> {
    let Some(elements) = shape.elements() else {
        return Err(Fault::Refused(format!(
            "shape {shape} has more elements than can be addressed"
        )));
    };
    // An element takes a digit and a separator.
    if elements > cursor.remaining().div_ceil(2) {
        return Err(miscounted(cursor.clone(), shape, elements));
    }
    Ok(elements)
}

/// The fault that the array at `start` does not have the elements of the shape. Counts them for the message.
fn miscounted(mut start: Cursor<'_>, shape: &Shape, elements: usize) -> Fault {
    let mut found = 0usize;
    let counted = walk(&mut start, None, |cursor| {
        found += 1;
        cursor.skip().map(|()| 1)
    });
    match counted {
        Ok(()) => Fault::Refused(format!("shape {shape} takes {elements} elements, found {found}")),
        Err(fault) => fault,
    }
}

fn fixed<L: Leaf>(cursor: &mut Cursor<'_>, shape: &Shape) -> Result<AlignedBytes, Fault> {
    let start = cursor.clone();
    let elements = expected(cursor, shape)?;
    let mut bytes = AlignedBytes::zeroed(elements * size_of::<L::Stored>());
    let mut slots = bytemuck::cast_slice_mut::<u8, L::Stored>(bytes.as_mut_slice()).iter_mut();
    let mut surplus = false;
    walk(cursor, Some(shape), |cursor| {
        let text = cursor.bytes();
        let mut at = cursor.position();
        let mut count = 0;
        loop {
            let Some((value, end)) = L::read(text, at) else {
                return Err(wrong_element(&start, at, elements - slots.len(), L::EXPECTED));
            };
            match slots.next() {
                Some(slot) => *slot = value,
                None => surplus = true,
            }
            count += 1;
            // The usual ways to go on; any other is left to the walk.
            at = match text.get(end..) {
                Some([b',', b' ', next, ..]) if !starts_array_or_space(*next) => end + 2,
                Some([b',', next, ..]) if !starts_array_or_space(*next) => end + 1,
                _ => {
                    cursor.jump(end);
                    return Ok(count);
                }
            };
        }
    })?;
    if surplus || slots.len() > 0 {
        return Err(miscounted(start, shape, elements));
    }
    Ok(bytes)
}

fn starts_array_or_space(byte: u8) -> bool {
    matches!(byte, b'[' | b' ' | b'\n' | b'\t' | b'\r')
}

fn strings(cursor: &mut Cursor<'_>, shape: &Shape) -> Result<AlignedBytes, Fault> {
    let start = cursor.clone();
    let elements = expected(cursor, shape)?;
    let mut bytes = AlignedBytes::default();
    let mut found = 0usize;
    walk(cursor, Some(shape), |cursor| {
        let leaf = cursor.position();
        if cursor.peek() != Some(b'"') {
            return Err(wrong_element(&start, leaf, found, "BYTES, a string"));
        }
        let element = cursor.string()?;
        if u32::try_from(element.len()).is_err() {
            return Err(Fault::Refused(format!("element {found}: expected less than 4 GiB")));
        }
        append_string(&mut bytes, element.as_bytes());
        found += 1;
        Ok(1)
    })?;
    if found != elements {
        return Err(miscounted(start, shape, elements));
    }
    Ok(bytes)
}

/// The fault of the element at `leaf`: not JSON at all, or of another type.
#[cold]
fn wrong_element(start: &Cursor<'_>, leaf: usize, index: usize, expected: &str) -> Fault {
    let mut cursor = start.clone();
    cursor.jump(leaf);
    match cursor.value() {
        Ok(value) => Fault::unexpected(format_args!("element {index}"), expected, value.text),
        Err(fault) => fault,
    }
}

/// Walks over an array of arrays. `run` reads one element that is no array, or several with the commas between them,
/// and tells how many. With a shape, an array as deep as the shape must have its sizes.
#[inline]
fn walk<'a>(
    cursor: &mut Cursor<'a>,
    shape: Option<&Shape>,
    mut run: impl FnMut(&mut Cursor<'a>) -> Result<usize, Fault>,
) -> Result<(), Fault> {
    if cursor.peek() != Some(b'[') {
        let value = cursor.value()?;
        return Err(Fault::unexpected("`data`", "an array", value.text));
    }
    let mut entries = [0usize; MAX_NESTING + 1];
    let mut depth = 0;
    let mut leaf_depth = 0;
    loop {
        // Here a value begins, or an array that was just opened ends.
        let mut closed = false;
        match cursor.peek() {
            Some(b'[') => {
                if depth == MAX_NESTING {
                    return Err(Fault::Refused(format!(
                        "`data`: expected arrays nested at most {MAX_NESTING} deep, found more"
                    )));
                }
                cursor.eat(b'[');
                depth += 1;
                entries[depth] = 0;
                if cursor.peek() != Some(b']') {
                    continue;
                }
                closed = true;
            }
            _ => {
                if leaf_depth != depth {
                    if leaf_depth != 0 {
                        return Err(Fault::Refused(format!(
                            "`data`: expected all elements nested {leaf_depth} deep, found one {depth} deep"
                        )));
                    }
                    leaf_depth = depth;
                }
                entries[depth] += run(cursor)?;
            }
        }
        // Here a value ended, or the byte ahead closes an empty array.
        loop {
            if !closed && cursor.eat(b',') {
                break;
            }
            if !cursor.eat(b']') {
                return cursor.fault("`,` or `]`");
            }
            closed = false;
            check_size(shape, depth, leaf_depth, entries[depth])?;
            depth -= 1;
            if depth == 0 {
                return Ok(());
            }
            entries[depth] += 1;
        }
    }
}

/// Checks the size of an array that ends at `depth` against the shape, if `data` is nested as deeply as the shape.
fn check_size(shape: Option<&Shape>, depth: usize, leaf_depth: usize, found: usize) -> Result<(), Fault> {
    let Some(shape) = shape.filter(|shape| shape.dims().len() == leaf_depth && leaf_depth > 1) else {
        return Ok(());
    };
    match shape.dims().get(depth - 1) {
        Some(&size) if size != found => Err(Fault::Refused(format!(
            "`data`: shape {shape} takes arrays of {size} at nesting level {depth}, found one of {found}"
        ))),
        _ => Ok(()),
    }
}
