#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde::Deserialize;

use super::*;

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Shop {
    name: String,
    #[serde(default)]
    open: bool,
    #[serde(default)]
    port: u16,
    #[serde(default)]
    mode: Mode,
    #[serde(default)]
    shelves: Vec<Shelf>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

#[derive(Debug, PartialEq, Default, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum Mode {
    #[default]
    RoundRobin,
    LeastRequest,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Shelf {
    height: u32,
}

fn shops(text: &str) -> Vec<Read<Shop>> {
    parse_documents("shop.yaml", text.as_bytes())
}

/// The one line of every problem.
fn lines(text: &str) -> Vec<String> {
    shops(text).iter().flat_map(|read| &read.diagnostics).map(ToString::to_string).collect()
}

fn rendered(text: &str) -> String {
    shops(text).iter().flat_map(|read| &read.diagnostics).map(|problem| problem.render(false)).collect()
}

#[test]
fn every_document_of_a_stream_is_read() {
    let read = shops("name: a\n---\n# nothing\n---\nname: b\nlabels: {x: '1'}\n...\n---\nname: c\n");
    let names: Vec<_> = read.into_iter().map(|r| (r.value.unwrap().name, r.source.line)).collect();
    assert_eq!(names, [("a".to_owned(), 1), ("b".to_owned(), 5), ("c".to_owned(), 9)]);
}

#[test]
fn a_misspelt_field_is_shown_with_a_caret_and_the_right_name() {
    insta::assert_snapshot!(rendered("name: corner\nshelfs:\n- height: 1\nport: 80\n"), @r"
    unknown-field

      error: shelfs: there is no field `shelfs` here
       ╭─[shop.yaml:2:1]
     1 │ name: corner
     2 │ shelfs:
       · ^^^^^^
     3 │ - height: 1
       ╰────
      help: did you mean `shelves`?
    ");
}

#[test]
fn every_misfit_of_a_document_is_reported_at_its_own_place() {
    let text = "name: 1.10\nopen: maybe\nport: 70000\nmode: LEAST_REQUESTS\nshelves:\n- height: -1\n- heigth: 2\n  height: 3\n- 5\nlabels:\n  a: on\n  b: [x]\nextra: 1\n";
    insta::assert_snapshot!(lines(text).join("\n"), @r"
    shop.yaml:1:7: error[wrong-type]: expected a text, found the number 1.10
    shop.yaml:2:7: error[wrong-type]: expected true or false, found the text `maybe`
    shop.yaml:3:7: error[invalid-value]: expected a whole number from 0 to 65535, found the number 70000
    shop.yaml:4:7: error[unknown-value]: `LEAST_REQUESTS` is not a value of this field
    shop.yaml:6:11: error[invalid-value]: expected a whole number from 0 to 4294967295, found the number -1
    shop.yaml:7:3: error[unknown-field]: there is no field `heigth` here
    shop.yaml:9:3: error[wrong-type]: expected a mapping, found the number 5
    shop.yaml:11:6: error[wrong-type]: expected a text, found the truth value `on`
    shop.yaml:12:6: error[wrong-type]: expected a text, found a list
    shop.yaml:13:1: error[unknown-field]: there is no field `extra` here
    ");
}

#[test]
fn a_fault_in_one_document_costs_that_document_only() {
    let text = "name: a\n---\nname: 'unclosed\nport: 1\n---\nname: b\nport: x\n---\nname: c\n";
    let read = shops(text);
    let names: Vec<_> = read.iter().filter_map(|r| r.value.as_ref()).map(|shop| shop.name.as_str()).collect();
    assert_eq!(names, ["a", "c"]);
    assert_eq!(
        lines(text),
        [
            "shop.yaml:3:7: error[syntax]: a quoted text is not closed before the document ends",
            "shop.yaml:7:7: error[wrong-type]: expected a whole number from 0 to 65535, found the text `x`",
        ]
    );
}

#[rstest::rstest]
#[case::tab("name: a\nlabels:\n\tx: y\n", "3:1: error[syntax]: a tab is used for indentation")]
#[case::tab_after_value("name: a\n\tport: 1\n", "2:1: error[syntax]: a tab is used for indentation")]
#[case::indentation("labels:\n  a: b\n c: d\n", "3:2: error[syntax]: wrong indentation: no key is expected here")]
#[case::colon("name: a: b\n", "1:8: error[syntax]: a `key: value` cannot stand here")]
#[case::bracket("name: {a: b\n", "1:7: error[syntax]: a bracket is opened and not closed")]
#[case::at("name: @a\n", "1:7: error[syntax]: a value cannot begin with this character")]
#[case::alias("name: *a\n", "1:7: error[syntax]: this alias names nothing")]
#[case::key_without_colon("name\nport: 1\n", "2:5: error[syntax]: a `key: value` cannot stand here")]
#[case::complex_key("? [a]\n: b\n", "1:3: error[syntax]: a key is a list or a mapping; keys are plain text")]
#[case::duplicate(
    "name: a\nport: 1\nname: b\n",
    "3:1: error[duplicate-key]: `name` is written twice in one mapping; first on line 1"
)]
#[case::recursion("name: a\nlabels: &l\n  x: *l\n", "3:6: error[syntax]: this alias stands inside of what it names")]
fn a_fault_of_form_is_reported_in_plain_words_at_its_place(#[case] text: &str, #[case] expected: &str) {
    assert_eq!(lines(text), [format!("shop.yaml:{expected}")]);
}

#[test]
fn all_duplicate_keys_are_reported_and_the_document_is_refused() {
    let read = shops("name: a\nname: b\nname: c\nlabels: {x: '1', x: '2'}\n");
    assert_eq!(read[0].value, None);
    assert_eq!(read[0].diagnostics.len(), 3);
}

#[test]
fn an_alias_bomb_is_refused_before_it_goes_off() {
    let mut text = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
    for level in 1..20 {
        let previous = vec![format!("*a{}", level - 1); 9].join(",");
        text.push_str(&format!("a{level}: &a{level} [{previous}]\n"));
    }
    let stream = parse("bomb.yaml", text.as_bytes());
    assert_eq!(stream.documents[0].problems[0].code, Code::TooLarge);
    assert!(stream.documents[0].root.is_none());
}

#[test]
fn deep_nesting_is_refused_without_exhausting_the_stack() {
    for text in [
        "[".repeat(100_000),
        "{a: ".repeat(5_000),
        "- ".repeat(100_000),
        format!("{}1{}", "[".repeat(200), "]".repeat(200)),
    ] {
        let stream = parse("deep.yaml", text.as_bytes());
        let code = stream.documents[0].problems[0].code;
        assert!(matches!(code, Code::TooDeep | Code::Syntax), "{code} for {}", &text[..8]);
    }
    let deep = format!("name: a\nlabels: {}1{}", "[".repeat(60), "]".repeat(60));
    assert_eq!(parse("deep.yaml", deep.as_bytes()).documents[0].problems, []);
}

#[test]
fn a_file_that_is_too_large_is_refused_by_its_size() {
    let problem = parse("large.yaml", &vec![b'#'; 10 * 1024 * 1024]).problem.unwrap();
    assert_eq!(problem.code, Code::TooLarge);
    assert!(problem.message.contains("8 MiB"), "{}", problem.message);
}

#[test]
fn bytes_that_are_not_utf8_are_located() {
    let problem = parse("latin.yaml", b"name: a\nport: \xe9\n").problem.unwrap();
    assert_eq!((problem.code, problem.source.line, problem.source.column), (Code::NotUtf8, 2, 7));
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_are_accepted() {
    let read = shops("\u{feff}name: a\r\nport: 80\r\n---\r\nname: b\r\n");
    let values: Vec<_> = read.into_iter().map(|r| r.value.unwrap()).map(|shop| (shop.name, shop.port)).collect();
    assert_eq!(values, [("a".to_owned(), 80), ("b".to_owned(), 0)]);
}

#[test]
fn json_is_read_with_tabs_too() {
    let text = b"{\n\t\"name\": \"a\",\n\t\"shelves\": [\n\t\t{\"height\": 1}\n\t],\n\t\"prot\": 1\n}\n";
    let read = parse_documents::<Shop>("shop.json", text);
    assert_eq!(
        read[0].diagnostics[0].to_string(),
        "shop.json:6:2: error[unknown-field]: there is no field `prot` here"
    );
}

#[test]
fn a_merge_key_fills_in_what_is_not_written() {
    let stream = parse("m.yaml", b"base: &b {a: 1, b: 2}\nown:\n  <<: *b\n  a: 3\n");
    let own = stream.documents[0].root.as_ref().unwrap().get("own").unwrap();
    let keys: Vec<_> = own.entries().iter().map(|e| (e.key.as_str(), &e.node.value)).collect();
    assert_eq!(keys, [("a", &Value::UInt(3)), ("b", &Value::UInt(2))]);
}

#[test]
fn nothing_written_is_the_same_as_an_absent_field() {
    let read = shops("name: a\nshelves:\nlabels:\nport: ~\n");
    assert_eq!(read[0].diagnostics, []);
}

#[test]
fn a_fault_in_a_very_long_line_shows_only_its_surroundings() {
    let text = format!(
        "{{\"name\": \"{}\", \"prot\": 1, \"labels\": {{\"x\": \"{}\"}}}}",
        "é".repeat(5_000),
        "y".repeat(5_000)
    );
    let problem = &shops(&text)[0].diagnostics[0];
    assert_eq!(problem.source.column, 5_014);
    assert!(problem.render(false).len() < 1_500);
    assert!(problem.render(false).contains("\"prot\""));
}

#[test]
fn suggestions_are_near_or_absent() {
    assert_eq!(suggest("exportTo", ["exportTo", "hosts"]), Some("exportTo"));
    assert_eq!(suggest("export_to", ["exportTo", "hosts"]), Some("exportTo"));
    assert_eq!(suggest("host", ["exportTo", "hosts"]), Some("hosts"));
    assert_eq!(suggest("wieght", ["weight", "headers"]), Some("weight"));
    assert_eq!(suggest("banana", ["exportTo", "hosts"]), None);
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for problem in parse_documents::<Shop>("any.yaml", &bytes).iter().flat_map(|read| &read.diagnostics) {
            problem.render(true);
        }
    }

    #[test]
    fn arbitrary_yaml_like_text_never_panics(text in "[a-c:\\-{}\\[\\]&*!|>'\"#%@` \t\r\n0-9.,?~<é😀]{0,200}") {
        for problem in parse_documents::<Shop>("any.yaml", text.as_bytes()).iter().flat_map(|read| &read.diagnostics) {
            prop_assert!(problem.source.line >= 1 && problem.source.column >= 1);
            problem.render(false);
        }
    }
}
