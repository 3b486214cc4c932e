//! Model directories.

use std::path::Path;

use mila_ops::Values;
use mila_weights::{Config, Error, ModelDirectory, PretrainedConfig};

use crate::forge::values;

fn config() -> Config {
    Config {
        architecture: "mila_t".into(),
        num_classes: 2,
        num_features: Some(512),
        label_names: Some(vec!["cat".into(), "dog".into()]),
        model_args: serde_json::Map::new(),
        pretrained_cfg: PretrainedConfig {
            input_size: [3, 224, 224],
            mean: [0.485, 0.456, 0.406],
            std: [0.229, 0.224, 0.225],
            interpolation: "bicubic".into(),
            crop_pct: 0.875,
            crop_mode: "center".into(),
            license: Some("apache-2.0".into()),
            origin_url: None,
        },
    }
}

fn tensors(value: f32) -> Vec<(String, Vec<usize>, Values<'static>)> {
    ["w", "attn.rope.rotations", "norm.num_batches_tracked"]
        .map(|name| (name.to_string(), vec![1], Values::F32(vec![value].into())))
        .into()
}

fn entries(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_directory_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/model");
    ModelDirectory::write(&path, &config(), tensors(1.0)).unwrap();
    assert_eq!(entries(&path), ["config.json", "labels.txt", "model.safetensors"]);
    let opened = ModelDirectory::open(&path).unwrap();
    assert_eq!(opened.config(), &config());
    let weights = opened.weights().unwrap();
    assert_eq!(weights.names().collect::<Vec<_>>(), ["w"]);
    assert_eq!(values(&weights, "w"), [1.0]);
    let header = std::fs::read(path.join("model.safetensors")).unwrap();
    assert!(!String::from_utf8_lossy(&header).contains("rotations"), "derived tensors were written");

    // Over itself, without labels: those of before do not stay.
    ModelDirectory::write(&path, &Config { label_names: None, ..config() }, tensors(2.0)).unwrap();
    assert_eq!(entries(&path), ["config.json", "model.safetensors"]);
    assert_eq!(values(&weights, "w"), [1.0], "an open map keeps its file");
    assert_eq!(values(&ModelDirectory::open(&path).unwrap().weights().unwrap(), "w"), [2.0]);
}

#[test]
fn labels_may_be_in_their_own_file() {
    let folder = tempfile::tempdir().unwrap();
    ModelDirectory::write(folder.path(), &Config { label_names: None, ..config() }, tensors(1.0)).unwrap();
    std::fs::write(folder.path().join("labels.txt"), "cat\r\ndog\n").unwrap();
    let labels = ModelDirectory::open(folder.path()).unwrap().config().label_names.clone();
    assert_eq!(labels, Some(vec!["cat".to_string(), "dog".to_string()]));
    std::fs::write(folder.path().join("labels.txt"), "cat\n").unwrap();
    let error = ModelDirectory::open(folder.path()).unwrap_err();
    assert!(error.to_string().contains("expected one for each of 2 classes, found 1"), "{error}");
}

#[test]
fn timms_own_files_are_read() {
    // With keys that only timm knows.
    let json = br#"{"architecture": "convnext_atto", "num_classes": 1000, "num_features": 320, "global_pool": "avg",
        "pretrained_cfg": {"tag": "d2_in1k", "custom_load": false, "input_size": [3, 224, 224],
        "test_input_size": [3, 288, 288], "fixed_input_size": false, "interpolation": "bicubic", "crop_pct": 0.95,
        "test_crop_pct": 0.95, "crop_mode": "center", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
        "num_classes": 1000, "pool_size": [7, 7], "first_conv": "stem.0", "classifier": "head.fc",
        "license": "apache-2.0"}}"#;
    let config = Config::from_json(json).unwrap();
    assert_eq!((config.architecture.as_str(), config.num_classes), ("convnext_atto", 1000));
    assert_eq!(config.pretrained_cfg.crop_pct, 0.95);
    assert_eq!(config.label_names, None);
}

#[test]
fn wrong_values_name_their_key() {
    type Change = fn(&mut Config);
    let cases: [(&str, Change); 8] = [
        ("architecture", |c| c.architecture = " ".into()),
        ("label_names", |c| c.num_classes = 3),
        ("pretrained_cfg.input_size", |c| c.pretrained_cfg.input_size = [1, 224, 224]),
        ("pretrained_cfg.mean", |c| c.pretrained_cfg.mean[0] = f64::NAN),
        ("pretrained_cfg.std", |c| c.pretrained_cfg.std[2] = 0.0),
        ("pretrained_cfg.crop_pct", |c| c.pretrained_cfg.crop_pct = 1.5),
        ("pretrained_cfg.interpolation", |c| c.pretrained_cfg.interpolation = "sinc".into()),
        ("pretrained_cfg.crop_mode", |c| c.pretrained_cfg.crop_mode = "left".into()),
    ];
    let folder = tempfile::tempdir().unwrap();
    for (key, change) in cases {
        let mut config = config();
        change(&mut config);
        let error = ModelDirectory::write(&folder.path().join("x"), &config, tensors(1.0)).unwrap_err();
        assert!(error.to_string().contains(&format!("`{key}`: expected")), "{error}");
        assert!(error.is_bad_data());
    }
    assert!(entries(folder.path()).is_empty(), "something was written");
    for json in [&b"{"[..], b"[]", b"{}", br#"{"architecture": "x", "num_classes": -1, "pretrained_cfg": {}}"#, b"\xff"]
    {
        assert!(matches!(Config::from_json(json), Err(Error::Config { .. })));
    }
}

#[test]
fn an_incomplete_directory_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let error = ModelDirectory::open(folder.path()).unwrap_err();
    assert!(matches!(error, Error::Io { .. }) && error.to_string().contains("config.json"), "{error}");
    ModelDirectory::write(folder.path(), &config(), tensors(1.0)).unwrap();
    std::fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    let error = ModelDirectory::open(folder.path()).unwrap().weights().unwrap_err();
    assert!(matches!(error, Error::Io { .. }) && error.to_string().contains("model.safetensors"), "{error}");
}
