//! What is visible, what is told of, and what an image says it is for.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;

use super::*;
use crate::{
    transfer::ImageName,
    types::{Algorithm, MediaType},
};

/// An image of one layer and of that config.
struct Held {
    image: Image,
    blobs: HashMap<Digest, Bytes>,
}

impl Held {
    fn of(config: &str) -> Self {
        let mut blobs = HashMap::new();
        let mut put = |bytes: &str, media_type: &str| {
            let digest = Digest::of(Algorithm::Sha256, bytes.as_bytes());
            blobs.insert(digest.clone(), Bytes::from(bytes.to_owned()));
            Descriptor {
                size: bytes.len() as u64,
                media_type: MediaType::parse(media_type),
                role: Role::Manifest,
                digest,
            }
        };
        let (config, layer) = (put(config, "a/config"), put("layer", "a/layer"));
        let named = |blob: &Descriptor| {
            format!(
                r#"{{"mediaType":"{}","digest":"{}","size":{}}}"#,
                blob.media_type.as_ref().unwrap(),
                blob.digest,
                blob.size
            )
        };
        let manifest = "application/vnd.oci.image.manifest.v1+json";
        let body = format!(
            r#"{{"schemaVersion":2,"mediaType":"{manifest}","config":{},"layers":[{}]}}"#,
            named(&config),
            named(&layer)
        );
        let image = Image {
            root: put(&body, manifest),
            name: ImageName::default(),
        };
        Self { image, blobs }
    }
}

impl Origin for Held {
    fn images(&self) -> Result<Vec<Image>, Error> {
        Ok(vec![self.image.clone()])
    }

    fn manifest(&self, _: &Image, manifest: &Descriptor) -> Result<Bytes, Error> {
        Ok(self.blobs[&manifest.digest].clone())
    }

    fn blob(&self, _: &Image, blob: &Descriptor) -> Result<Box<dyn Read + Send + '_>, Error> {
        Ok(Box::new(&*self.blobs[&blob.digest]))
    }
}

/// Takes everything, and does `at` before it takes a tag.
struct Taker<F>(F);

impl<F: Fn(&Tag) -> Result<(), Error> + Send + Sync> Destination for Taker<F> {
    fn has_blob(&self, _: &RepositoryName, _: &Descriptor) -> Result<bool, Error> {
        Ok(false)
    }

    fn put_blob(&self, _: &RepositoryName, _: &Descriptor, _: &Open<'_>) -> Result<(), Error> {
        Ok(())
    }

    fn put_manifest(&self, _: &RepositoryName, _: &Descriptor, _: &Bytes) -> Result<(), Error> {
        Ok(())
    }

    fn put_image(
        &self,
        _: &RepositoryName,
        tag: Option<&Tag>,
        _: &Descriptor,
        _: &Bytes,
    ) -> Result<(), Error> {
        tag.map_or(Ok(()), &self.0)
    }

    fn finish(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// The tags that were told of, and what came of it.
fn copied(
    held: &Held,
    choice: &Choice,
    pace: &Pace,
    at: impl Fn(&Tag) -> Result<(), Error> + Send + Sync,
) -> (Vec<String>, Result<Copied, Error>) {
    let walk = Walk {
        origin: held,
        destination: &Taker(at),
        observer: &(),
        pace,
    };
    let tags = ["1", "2", "3"].map(|tag| tag.parse().unwrap());
    let mut told = Vec::new();
    let mut visible = |tag: &Tag, copied: &Copied| {
        assert_eq!(copied.digest, held.image.root.digest);
        told.push(tag.to_string());
    };
    let name = "acme/app".parse().unwrap();
    let copied = walk.copy_telling(&held.image, choice, &name, &tags, &mut visible);
    (told, copied)
}

#[test]
fn a_tag_is_told_of_although_the_next_is_refused() {
    let (told, copied) = copied(
        &Held::of("{}"),
        &Choice::Whole,
        &Pace::usual(1 << 20),
        |tag| match tag.as_str() {
            "2" => Err(Error::Destination {
                place: "2".to_owned(),
                why: "refused".to_owned(),
            }),
            _ => Ok(()),
        },
    );
    assert_eq!(told, ["1"]);
    assert!(matches!(copied, Err(Error::Destination { .. })));
}

#[test]
fn no_tag_is_put_once_the_end_is_asked_for() {
    let pace = Pace::usual(1 << 20);
    let put = Mutex::new(Vec::new());
    let (told, copied) = copied(&Held::of("{}"), &Choice::Whole, &pace, |tag| {
        put.lock().unwrap().push(tag.to_string());
        pace.cancel.cancel();
        Ok(())
    });
    assert_eq!(told, ["1"]);
    assert_eq!(put.into_inner().unwrap(), ["1"]);
    assert!(matches!(copied, Err(Error::Interrupted)));
}

#[test]
fn an_image_that_is_no_index_is_for_what_its_config_says() {
    let arm = r#"{"os":"linux","architecture":"arm64","variant":"v8"}"#;
    for (config, asked, refusal) in [
        (arm, &["linux/arm64"][..], None),
        (arm, &["linux/amd64", "linux/arm64"], None),
        (
            arm,
            &["linux/amd64", "linux/arm/v7"],
            Some("it is for linux/arm64/v8, and not for linux/amd64, linux/arm/v7"),
        ),
        // What says nothing is taken as it is: charts and the like.
        ("{}", &["linux/amd64"], None),
        ("not json", &["linux/amd64"], None),
        (r#"["linux","arm64"]"#, &["linux/amd64"], None),
        (r#"{"os":"","architecture":""}"#, &["linux/amd64"], None),
        (r#"{"os":7,"architecture":"arm64"}"#, &["linux/amd64"], None),
    ] {
        let asked = asked.iter().map(|asked| asked.parse().unwrap());
        let choice = Choice::Platforms(asked.collect());
        let pace = Pace::usual(1 << 20);
        let (told, copied) = copied(&Held::of(config), &choice, &pace, |_| Ok(()));
        match refusal {
            None => assert_eq!(told.len(), 3, "{config}: {copied:?}"),
            Some(refusal) => {
                assert_eq!(told, [""; 0], "{config}");
                let said = copied.unwrap_err().to_string();
                assert!(said.contains(refusal), "{said}");
            }
        }
    }
}
