//! Reads from a component which interfaces it imports and exports beside those of the host. Nothing is compiled, so that
//! whoever deploys an app can do it, too.

use std::collections::HashMap;
use std::sync::Arc;

use wasmparser::component_types::{
    AliasableResourceId, ComponentAnyTypeId, ComponentDefinedType, ComponentDefinedTypeId, ComponentEntityType,
    ComponentFuncTypeId, ComponentInstanceTypeId, ComponentValType,
};
use wasmparser::types::TypesRef;
use wasmparser::{
    Chunk, ComponentExternalKind, Encoding, Parser, Payload, PrimitiveValType, ValidPayload, Validator, WasmFeatures,
};

use super::types::{Interface, Interfaces, Kind, Primitive, Signature, Type};
use crate::artifact::LoadError;

/// What the names of the host's own interfaces begin with.
const HOST_PREFIXES: [&str; 2] = ["wasi:", "littoral:"];
/// How deeply types may be nested: deeper than people write, and as little as the stack of a thread allows for easily.
const TYPE_DEPTH_MAX: usize = 64;
/// Of how many types the parameters and the result of a function may be made, each counted where it is used.
const TYPE_SIZE_MAX: u32 = 10_000;

/// The interfaces of a component beside those of the host.
///
/// # Errors
/// When it is no valid component.
pub fn interfaces(component: &[u8]) -> Result<Interfaces, LoadError> {
    if !has_any(component)? {
        return Ok(Interfaces::default());
    }
    let mut validator = Validator::new_with_features(WasmFeatures::all());
    let mut names = Names::default();
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(component) {
        let payload = payload.map_err(invalid)?;
        match (&payload, depth) {
            (Payload::ComponentImportSection(imports), 1) => {
                for import in imports.clone() {
                    names.imports.push(import.map_err(invalid)?.name.name.to_owned());
                }
            }
            (Payload::ComponentExportSection(exports), 1) => {
                for export in exports.clone() {
                    names.exports.push(export.map_err(invalid)?.name.name.to_owned());
                }
            }
            (Payload::Version { .. }, _) => depth += 1,
            (Payload::End(_), _) => depth = depth.saturating_sub(1),
            _ => {}
        }
        // The bodies of functions say nothing of interfaces; the compiler looks at them.
        if let ValidPayload::End(types) = validator.payload(&payload).map_err(invalid)?
            && depth == 0
        {
            return Ok(Reader::new(types.as_ref(), &names).read(&names));
        }
    }
    Err(LoadError::Invalid("it is cut off".to_owned()))
}

/// Whether a component has such interfaces. Most have none, so that this is quick: what is nested is passed over.
fn has_any(component: &[u8]) -> Result<bool, LoadError> {
    let (mut parser, mut rest) = (Parser::new(0), component);
    loop {
        let Chunk::Parsed { consumed, payload } = parser.parse(rest, true).map_err(invalid)? else { return Ok(false) };
        let mut passed = consumed;
        match payload {
            Payload::Version { encoding: Encoding::Module, .. } | Payload::End(_) => return Ok(false),
            Payload::ModuleSection { unchecked_range, .. } | Payload::ComponentSection { unchecked_range, .. } => {
                passed += unchecked_range.len();
            }
            Payload::ComponentImportSection(imports) => {
                for import in imports {
                    if !is_the_hosts(import.map_err(invalid)?.name.name) {
                        return Ok(true);
                    }
                }
            }
            Payload::ComponentExportSection(exports) => {
                for export in exports {
                    let export = export.map_err(invalid)?;
                    let kinds = [ComponentExternalKind::Instance, ComponentExternalKind::Func];
                    if kinds.contains(&export.kind) && !is_the_hosts(export.name.name) {
                        return Ok(true);
                    }
                }
            }
            _ => {}
        }
        rest = rest.get(passed..).unwrap_or_default();
    }
}

fn is_the_hosts(name: &str) -> bool {
    HOST_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

fn invalid(error: wasmparser::BinaryReaderError) -> LoadError {
    LoadError::Invalid(error.to_string())
}

/// What a component imports and exports, in order.
#[derive(Default)]
struct Names {
    imports: Vec<String>,
    exports: Vec<String>,
}

/// Turns the validator's types into ours.
struct Reader<'t> {
    types: TypesRef<'t>,
    /// What interfaces call their types and resources.
    names: HashMap<ComponentAnyTypeId, Arc<str>>,
    resources: HashMap<AliasableResourceId, String>,
    /// Those that were read before: types are shared, and a tree of them may be far larger than their number.
    known: HashMap<ComponentDefinedTypeId, Type>,
}

impl<'t> Reader<'t> {
    fn new(types: TypesRef<'t>, names: &Names) -> Self {
        let mut reader = Self { types, names: HashMap::new(), resources: HashMap::new(), known: HashMap::new() };
        let imported = names.imports.iter().filter_map(|name| Some((name, types.component_item_for_import(name)?)));
        let exported = names.exports.iter().filter_map(|name| Some((name, types.component_item_for_export(name)?)));
        for (name, item) in imported.chain(exported) {
            if let ComponentEntityType::Instance(id) = item.ty {
                reader.learn_names(name, id);
            }
        }
        reader
    }

    fn learn_names(&mut self, interface: &str, id: ComponentInstanceTypeId) {
        let Some(instance) = self.types.get(id) else { return };
        for (name, item) in &instance.exports {
            let ComponentEntityType::Type { referenced, created } = item.ty else { continue };
            for id in [created, referenced] {
                if let ComponentAnyTypeId::Resource(resource) = id {
                    self.resources.entry(resource).or_insert_with(|| format!("resource `{name}` of `{interface}`"));
                }
                self.names.entry(id).or_insert_with(|| Arc::from(name.as_str()));
            }
        }
    }

    fn read(mut self, names: &Names) -> Interfaces {
        let mut read = Interfaces::default();
        for name in names.imports.iter().filter(|name| !is_the_hosts(name)) {
            match self.types.component_item_for_import(name).map(|item| item.ty) {
                Some(ComponentEntityType::Instance(id)) => {
                    let interface = self.interface(id);
                    read.imports.insert(name.clone(), interface);
                }
                // A type that is imported by itself is a name for one that is known.
                Some(ComponentEntityType::Type { .. }) | None => {}
                Some(_) => read.loose.push(name.clone()),
            }
        }
        for name in names.exports.iter().filter(|name| !is_the_hosts(name)) {
            match self.types.component_item_for_export(name).map(|item| item.ty) {
                Some(ComponentEntityType::Instance(id)) => {
                    let interface = self.interface(id);
                    read.exports.insert(name.clone(), interface);
                }
                // Methods belong to a resource; of one whose types cannot be read nobody can make use.
                Some(ComponentEntityType::Func(id)) if !name.starts_with('[') => {
                    read.functions.extend(self.signature(id).ok().map(|signature| (name.clone(), signature)));
                }
                _ => {}
            }
        }
        // One that has types only is no reason to call anybody: what uses them has them in full.
        let is_needed = |interface: &Interface| !interface.functions.is_empty() || !interface.bound.is_empty();
        read.exports.retain(|_, interface| is_needed(interface));
        read
    }

    fn interface(&mut self, id: ComponentInstanceTypeId) -> Interface {
        let mut interface = Interface::default();
        let Some(instance) = self.types.get(id) else { return interface };
        for (name, item) in &instance.exports {
            match item.ty {
                // Methods and constructors belong to a resource, which is told by itself.
                ComponentEntityType::Func(_) if name.starts_with('[') => {}
                ComponentEntityType::Func(id) => match self.signature(id) {
                    Ok(signature) => drop(interface.functions.insert(name.clone(), signature)),
                    Err(problem) => interface.bound.push(format!("types in `{name}` that are {problem}")),
                },
                ComponentEntityType::Type { created: ComponentAnyTypeId::Resource(_), .. } => {
                    interface.bound.push(format!("resource `{name}`"));
                }
                ComponentEntityType::Type { .. } => {}
                _ => interface.bound.push(format!("`{name}`, which is neither a function nor a type")),
            }
        }
        interface
    }

    fn signature(&mut self, id: ComponentFuncTypeId) -> Result<Signature, &'static str> {
        let Some(function) = self.types.get(id) else { return Err("unknown") };
        let mut parameters = Vec::with_capacity(function.params.len());
        for (name, ty) in &function.params {
            parameters.push((Arc::from(name.as_str()), self.value(*ty, 0)?));
        }
        let result = function.result.map(|ty| self.value(ty, 0)).transpose()?;
        let signature = Signature { is_async: function.async_, parameters, result };
        let size = signature.types().fold(0_u32, |size, ty| size.saturating_add(ty.size));
        if size > TYPE_SIZE_MAX { Err("too large") } else { Ok(signature) }
    }

    fn value(&mut self, ty: ComponentValType, depth: usize) -> Result<Type, &'static str> {
        match ty {
            ComponentValType::Primitive(primitive) => Ok(Type::new(self::primitive(primitive))),
            ComponentValType::Type(id) => self.defined(id, depth),
        }
    }

    fn defined(&mut self, id: ComponentDefinedTypeId, depth: usize) -> Result<Type, &'static str> {
        if let Some(known) = self.known.get(&id) {
            return Ok(known.clone());
        }
        if depth >= TYPE_DEPTH_MAX {
            return Err("nested too deeply");
        }
        let Some(defined) = self.types.get(id) else { return Err("unknown") };
        let mut ty = Type::new(self.kind(defined, depth + 1)?);
        if ty.size > TYPE_SIZE_MAX {
            return Err("too large");
        }
        ty.name = self.names.get(&ComponentAnyTypeId::Defined(id)).cloned();
        self.known.insert(id, ty.clone());
        Ok(ty)
    }

    fn kind(&mut self, defined: &ComponentDefinedType, depth: usize) -> Result<Kind, &'static str> {
        let owned = |names: &mut dyn Iterator<Item = &str>| names.map(Arc::from).collect();
        Ok(match defined {
            ComponentDefinedType::Primitive(primitive) => self::primitive(*primitive),
            ComponentDefinedType::List { element, .. } => Kind::List(self.value(*element, depth)?),
            ComponentDefinedType::FixedLengthList { element, length, .. } => {
                Kind::FixedList(self.value(*element, depth)?, *length)
            }
            ComponentDefinedType::Map { key, value, .. } => {
                Kind::Map(self.value(*key, depth)?, self.value(*value, depth)?)
            }
            ComponentDefinedType::Record(record) => {
                let mut fields = Vec::with_capacity(record.fields.len());
                for (name, field) in &record.fields {
                    fields.push((Arc::from(name.as_str()), self.value(*field, depth)?));
                }
                Kind::Record(fields)
            }
            ComponentDefinedType::Variant(variant) => {
                let mut cases = Vec::with_capacity(variant.cases.len());
                for (name, case) in &variant.cases {
                    cases.push((Arc::from(name.as_str()), self.maybe(case.ty, depth)?));
                }
                Kind::Variant(cases)
            }
            ComponentDefinedType::Tuple(tuple) => {
                let parts = tuple.types.iter().map(|part| self.value(*part, depth));
                Kind::Tuple(parts.collect::<Result<_, _>>()?)
            }
            ComponentDefinedType::Flags(names) => Kind::Flags(owned(&mut names.iter().map(|name| name.as_str()))),
            ComponentDefinedType::Enum(names) => Kind::Enum(owned(&mut names.iter().map(|name| name.as_str()))),
            ComponentDefinedType::Option { ty, .. } => Kind::Option(self.value(*ty, depth)?),
            ComponentDefinedType::Result { ok, err, .. } => {
                Kind::Result(self.maybe(*ok, depth)?, self.maybe(*err, depth)?)
            }
            ComponentDefinedType::Own(id) | ComponentDefinedType::Borrow(id) => {
                Kind::Bound(self.resources.get(id).cloned().unwrap_or_else(|| "a resource".to_owned()))
            }
            ComponentDefinedType::Future { .. } => Kind::Bound("a future".to_owned()),
            ComponentDefinedType::Stream { .. } => Kind::Bound("a stream".to_owned()),
        })
    }

    fn maybe(&mut self, ty: Option<ComponentValType>, depth: usize) -> Result<Option<Type>, &'static str> {
        ty.map(|ty| self.value(ty, depth)).transpose()
    }
}

fn primitive(primitive: PrimitiveValType) -> Kind {
    Kind::Primitive(match primitive {
        PrimitiveValType::Bool => Primitive::Bool,
        PrimitiveValType::S8 => Primitive::S8,
        PrimitiveValType::U8 => Primitive::U8,
        PrimitiveValType::S16 => Primitive::S16,
        PrimitiveValType::U16 => Primitive::U16,
        PrimitiveValType::S32 => Primitive::S32,
        PrimitiveValType::U32 => Primitive::U32,
        PrimitiveValType::S64 => Primitive::S64,
        PrimitiveValType::U64 => Primitive::U64,
        PrimitiveValType::F32 => Primitive::F32,
        PrimitiveValType::F64 => Primitive::F64,
        PrimitiveValType::Char => Primitive::Char,
        PrimitiveValType::String => Primitive::String,
        PrimitiveValType::ErrorContext => return Kind::Bound("an error-context".to_owned()),
    })
}
