//! Writes what `json` and `stable` need to know about every message: its descriptors, and where its maps are.
//!
//! The descriptors are the ones that the generated Rust types were made from: the `envoy-types` package carries them beside
//! its code, so the two cannot drift apart and no protobuf compiler runs. Source comments and custom options are left out.
//! Cargo itself says where the package lies; no network is used.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet};

const PACKAGE: &str = "envoy-types";
/// Within the package: a serialized `FileDescriptorSet`.
const DESCRIPTORS: &str = "src/generated/types.bin";

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    println!("cargo:rerun-if-changed=build.rs");
    let manifest_dir = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let package = locate(&manifest_dir)?;

    let source = package.join(DESCRIPTORS);
    println!("cargo:rerun-if-changed={}", source.display());
    let bytes = fs::read(&source)
        .map_err(|e| format!("{PACKAGE} should carry its descriptors, but {} cannot be read: {e}", source.display()))?;
    let mut set = FileDescriptorSet::decode(bytes.as_slice())?;
    for file in &mut set.file {
        file.source_code_info = None;
    }
    for (package, path) in [("xds.type.v3", "xds/type/v3"), ("udpa.type.v1", "udpa/type/v1")] {
        set.file.push(typed_struct(package, path));
    }
    fs::write(out.join("descriptors.bin"), set.encode_to_vec())?;
    fs::write(out.join("maps.rs"), Maps::of(&set).to_rust()?)?;
    Ok(())
}

/// `TypedStruct` is missing in the package; see `src/typed_struct.rs`.
fn typed_struct(package: &str, path: &str) -> FileDescriptorProto {
    let field = |name: &str, number, r#type: Type, type_name: Option<&str>| FieldDescriptorProto {
        name: Some(name.to_owned()),
        number: Some(number),
        label: Some(Label::Optional.into()),
        r#type: Some(r#type.into()),
        type_name: type_name.map(str::to_owned),
        ..Default::default()
    };
    let message = DescriptorProto {
        name: Some("TypedStruct".to_owned()),
        field: vec![
            field("type_url", 1, Type::String, None),
            field("value", 2, Type::Message, Some(".google.protobuf.Struct")),
        ],
        ..Default::default()
    };
    FileDescriptorProto {
        name: Some(format!("{path}/typed_struct.proto")),
        package: Some(package.to_owned()),
        dependency: vec!["google/protobuf/struct.proto".to_owned()],
        message_type: vec![message],
        syntax: Some("proto3".to_owned()),
        ..Default::default()
    }
}

/// Asks cargo where `envoy-types` is, and has this script run again when another version is locked.
fn locate(manifest_dir: &Path) -> Result<PathBuf, Failure> {
    let output = Command::new(env::var("CARGO")?)
        .args(["metadata", "--format-version", "1", "--offline", "--filter-platform"])
        .arg(env::var("TARGET")?)
        .arg("--manifest-path")
        .arg(manifest_dir.join("Cargo.toml"))
        .output()?;
    if !output.status.success() {
        return Err(format!("cargo metadata failed:\n{}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    if let Some(root) = metadata["workspace_root"].as_str() {
        println!("cargo:rerun-if-changed={root}/Cargo.lock");
    }
    let manifest = metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|package| package["name"] == PACKAGE)
        .and_then(|package| package["manifest_path"].as_str())
        .ok_or_else(|| format!("cargo metadata does not list the package {PACKAGE}"))?;
    Ok(Path::new(manifest).parent().ok_or("a manifest without a directory")?.to_path_buf())
}

/// One message's fields that are maps or lead to one.
#[derive(Default)]
struct Node {
    /// Field number, whether it is a map, and the full name of the message that it holds (empty for a scalar).
    fields: BTreeMap<i32, (bool, String)>,
}

/// Every message, and which of its fields matter to a stable encoding.
struct Maps {
    nodes: BTreeMap<String, Node>,
}

impl Maps {
    fn of(set: &FileDescriptorSet) -> Self {
        let mut maps = Self { nodes: BTreeMap::new() };
        for file in &set.file {
            for message in &file.message_type {
                maps.add(file.package(), message);
            }
        }
        maps.prune();
        maps
    }

    fn add(&mut self, scope: &str, message: &DescriptorProto) {
        let name = if scope.is_empty() { message.name().to_owned() } else { format!("{scope}.{}", message.name()) };
        let mut node = Node::default();
        for field in message.field.iter().filter(|field| field.r#type() == Type::Message) {
            let target = field.type_name().trim_start_matches('.');
            let entry = message.nested_type.iter().find(|nested| {
                nested.options.as_ref().is_some_and(|options| options.map_entry())
                    && target.strip_prefix(&name).and_then(|rest| rest.strip_prefix('.')) == Some(nested.name())
            });
            let value = match entry {
                None => (false, target.to_owned()),
                Some(entry) => {
                    let value = entry.field.iter().find(|f| f.number() == 2 && f.r#type() == Type::Message);
                    (true, value.map(|f| f.type_name().trim_start_matches('.').to_owned()).unwrap_or_default())
                }
            };
            node.fields.insert(field.number(), value);
        }
        for nested in &message.nested_type {
            self.add(&name, nested);
        }
        self.nodes.insert(name, node);
    }

    /// Removes what neither is a map nor leads to one, until nothing changes.
    fn prune(&mut self) {
        loop {
            let with_maps: Vec<String> =
                self.nodes.iter().filter(|(_, node)| node.reaches(&self.nodes)).map(|(name, _)| name.clone()).collect();
            let before = self.nodes.values().map(|node| node.fields.len()).sum::<usize>() + self.nodes.len();
            self.nodes.retain(|name, _| with_maps.binary_search(name).is_ok());
            let names: Vec<String> = self.nodes.keys().cloned().collect();
            for node in self.nodes.values_mut() {
                node.fields.retain(|_, (is_map, target)| *is_map || names.binary_search(target).is_ok());
            }
            let after = self.nodes.values().map(|node| node.fields.len()).sum::<usize>() + self.nodes.len();
            if before == after {
                return;
            }
        }
    }

    fn to_rust(&self) -> Result<String, Failure> {
        let names: Vec<&String> = self.nodes.keys().collect();
        let mut text = String::from("static NODES: &[Node] = &[\n");
        for (name, node) in &self.nodes {
            write!(text, "Node {{ name: {name:?}, fields: &[")?;
            for (number, (is_map, target)) in &node.fields {
                let next = names.binary_search(&target).ok();
                write!(text, "Field {{ number: {number}, is_map: {is_map}, next: {next:?} }}, ")?;
            }
            text.push_str("] },\n");
        }
        text.push_str("];\n");
        Ok(text)
    }
}

impl Node {
    /// Whether a map can be reached from here, through any chain of messages.
    fn reaches(&self, nodes: &BTreeMap<String, Node>) -> bool {
        let mut seen: std::collections::BTreeSet<&str> = std::collections::BTreeSet::new();
        let mut open = vec![self];
        while let Some(node) = open.pop() {
            for (is_map, target) in node.fields.values() {
                if *is_map {
                    return true;
                }
                if seen.insert(target)
                    && let Some(next) = nodes.get(target)
                {
                    open.push(next);
                }
            }
        }
        false
    }
}
