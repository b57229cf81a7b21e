//! A strict reader of pages that are HTML and well-formed XML at once: every element is closed, every attribute quoted,
//! every `<` and `&` escaped. It panics at the first place where that does not hold.

/// What was read.
#[derive(Debug)]
pub(crate) struct Document(Element);

/// An element and all within it.
#[derive(Debug, Default)]
pub(crate) struct Element {
    name: String,
    attributes: Vec<(String, String)>,
    children: Vec<Element>,
    text: String,
}

impl Document {
    #[track_caller]
    pub(crate) fn parse(text: &str) -> Self {
        let rest = text.strip_prefix("<!DOCTYPE html>\n").expect("no doctype");
        let mut reader = Reader { rest };
        let mut root = Element::default();
        reader.content(&mut root);
        assert_eq!(reader.rest, "", "something behind the end");
        let [html] = &root.children[..] else {
            panic!("not one element: {root:?}");
        };
        assert_eq!(html.name, "html");
        let document = Self(root);
        let mut ids: Vec<_> = document
            .elements()
            .into_iter()
            .filter_map(|e| e.attribute("id"))
            .collect();
        ids.sort_unstable();
        assert!(
            ids.windows(2).all(|pair| pair[0] != pair[1]),
            "an id twice: {ids:?}"
        );
        document
    }

    pub(crate) fn elements(&self) -> Vec<&Element> {
        self.0.elements()
    }

    pub(crate) fn all(&self, name: &str) -> Vec<&Element> {
        self.0.all(name)
    }

    #[track_caller]
    pub(crate) fn by_id(&self, id: &str) -> &Element {
        let mut found = self
            .elements()
            .into_iter()
            .filter(|element| element.attribute("id") == Some(id));
        found
            .next()
            .unwrap_or_else(|| panic!("nothing has the id {id}"))
    }
}

impl Element {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value)
    }

    pub(crate) fn attributes(&self) -> impl Iterator<Item = (&str, &str)> {
        self.attributes
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Those of that name within it, in order.
    pub(crate) fn all(&self, name: &str) -> Vec<&Element> {
        self.elements()
            .into_iter()
            .filter(|element| element.name == name)
            .collect()
    }

    fn elements(&self) -> Vec<&Element> {
        let within = self
            .children
            .iter()
            .flat_map(|child| std::iter::once(child).chain(child.elements()));
        within.collect()
    }
}

struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    /// Up to the tag that closes `element`, or the end.
    fn content(&mut self, element: &mut Element) {
        loop {
            let at = self.rest.find('<').unwrap_or(self.rest.len());
            let (text, rest) = self.rest.split_at(at);
            let raw = element.name == "style";
            element.text.push_str(&if raw {
                text.to_owned()
            } else {
                unescaped(text)
            });
            self.rest = rest;
            if rest.is_empty() {
                assert_eq!(element.name, "", "it is not closed");
                return;
            }
            if let Some(rest) = rest.strip_prefix("</") {
                let (name, rest) = rest.split_once('>').expect("a tag without an end");
                assert_eq!(name, element.name, "closed is another");
                self.rest = rest;
                return;
            }
            let child = self.element();
            element.children.push(child);
        }
    }

    fn element(&mut self) -> Element {
        self.take("<");
        let mut element = Element {
            name: self.word(),
            ..Element::default()
        };
        loop {
            let spaced = self.rest.starts_with([' ', '\n']);
            self.rest = self.rest.trim_start();
            if let Some(rest) = self.rest.strip_prefix("/>") {
                self.rest = rest;
                return element;
            }
            if let Some(rest) = self.rest.strip_prefix('>') {
                self.rest = rest;
                self.content(&mut element);
                return element;
            }
            assert!(spaced, "no blank before {:.40}", self.rest);
            let name = self.word();
            self.take("=\"");
            let (value, rest) = self.rest.split_once('"').expect("a value without an end");
            assert!(!value.contains('<'), "{value}");
            assert!(element.attribute(&name).is_none(), "{name} twice");
            element.attributes.push((name, unescaped(value)));
            self.rest = rest;
        }
    }

    fn word(&mut self) -> String {
        let end = self
            .rest
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '-');
        let (word, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        assert!(!word.is_empty(), "no name at {:.40}", self.rest);
        self.rest = rest;
        word.to_owned()
    }

    fn take(&mut self, wanted: &str) {
        let rest = self.rest.strip_prefix(wanted);
        self.rest = rest.unwrap_or_else(|| panic!("no {wanted:?} at {:.40}", self.rest));
    }
}

fn unescaped(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, entity)) = rest.split_once('&') {
        let (entity, after) = entity.split_once(';').expect("an & that is no entity");
        plain.push_str(before);
        plain.push(match entity {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "#39" => '\'',
            other => panic!("&{other};"),
        });
        rest = after;
    }
    plain.push_str(rest);
    assert!(
        !plain.contains(|c: char| c.is_control() && c != '\n'),
        "{plain:?}"
    );
    plain
}
