//! `inspect` on models that have what is asked for, and on others.

mod scene;

use scene::Scene;
use serde_json::Value;

fn json(scene: &Scene, arguments: &[&str]) -> Value {
    serde_json::from_str(&scene.ok(&[arguments, &["--format", "json"]].concat())).expect("JSON")
}

fn layers(model: &Value) -> &Vec<Value> {
    model["layers"].as_array().expect("layers")
}

/// One picture, every map, both forms; the numbers behind it are what the model makes on any instruction set.
#[test]
fn every_map_is_drawn_and_told() {
    let scene = Scene::new();
    scene.picture("a.png", [200, 120, 40], 40);
    for (model, map, keys) in [
        ("ablation-input-gate-32", "input-gate", &["lowest", "highest", "mean"][..]),
        ("ablation-forget-gate-32", "forget-gate", &["mean"]),
        ("mila-nano", "attention", &["lowest", "highest", "mean"]),
        ("convnext-t", "token-norm", &["mean", "std"]),
    ] {
        let inspect = ["inspect", model, "a.png", "--map", map, "--size", "64x48", "--seed", "3"];
        let [png, svg] = ["png", "svg"].map(|form| format!("{map}.{form}"));
        let told = json(&scene, &[&inspect[..], &["-o", &png]].concat());
        let portable = json(&scene, &[&inspect[..], &["-o", &svg, "--isa", "portable"]].concat());
        assert_eq!(
            (&told["map"], &told["image"], &told["models"][0]["model"]),
            (&map.into(), &"a.png".into(), &model.into())
        );
        let (found, wanted) = (layers(&told["models"][0]), layers(&portable["models"][0]));
        assert!(found.len() >= 3 && found.len() == wanted.len(), "{map}: {} layers", found.len());
        for (found, wanted) in found.iter().zip(wanted) {
            assert_eq!(found["layer"], wanted["layer"]);
            for key in keys {
                let [found, wanted] = [found, wanted].map(|layer| layer[key].as_f64().expect("a number"));
                assert!((found - wanted).abs() <= 1e-4 * wanted.abs().max(1e-3), "{map} {key}: {found} for {wanted}");
            }
        }
        let picture = image::open(scene.path(&png)).expect("a picture").into_rgb8();
        assert!(picture.width() > 400 && picture.height() > 100 && picture.pixels().any(|p| p.0 != [255; 3]));
        let text = std::fs::read_to_string(scene.path(&svg)).expect("a picture");
        assert!(text.starts_with("<svg") && text.contains(model) && text.ends_with("</svg>\n"), "{map}");
    }
}

/// Two models in one picture: the question of the paper's Figure 5.
#[test]
fn models_beside_each_other() {
    let scene = Scene::new();
    scene.picture("a.png", [20, 120, 240], 32);
    let inspect =
        ["inspect", "ablation-baseline-32", "a.png", "--beside", "ablation-no-norm-32", "--map", "token-norm"];
    let told = json(&scene, &[&inspect[..], &["-o", "norms.svg"]].concat());
    let models = told["models"].as_array().expect("models");
    assert_eq!(models.iter().map(|model| layers(model).len()).collect::<Vec<_>>(), [5, 5]);
    let text = std::fs::read_to_string(scene.path("norms.svg")).expect("a picture");
    assert!(
        text.contains(">ablation-baseline-32, random weights<")
            && text.contains(">ablation-no-norm-32, random weights<"),
        "{text}"
    );
    // A dot a layer and one in the legend, for each.
    assert_eq!(text.matches("<path").count(), 12, "{text}");
    let table = scene.ok(&inspect);
    assert!(
        table.lines().count() == 12 && table.starts_with("ablation-baseline-32\n  layers.0.blocks.0.attn  std "),
        "{table}"
    );
    let csv = scene.ok(&[&inspect[..], &["--format", "csv"]].concat());
    assert!(csv.starts_with("model,layer,mean,std\nablation-baseline-32,layers.0.blocks.0.attn,"), "{csv}");

    // The same architecture twice is called as it was typed.
    let heat = ["inspect", "ablation-input-gate-32", "a.png", "--map", "input-gate", "-o", "gates.svg"];
    scene.model("trained", mila::models::Task::Classify { classes: 10 }, |_| {});
    scene.ok(&[&heat[..], &["--beside", "ablation_input_gate_32"]].concat());
    let text = std::fs::read_to_string(scene.path("gates.svg")).expect("a picture");
    assert!(
        text.contains(">ablation_input_gate_32, random weights<") && text.matches("<image").count() == 13,
        "{text}"
    );
    let attention = ["inspect", "trained", "a.png", "--map", "attention", "--beside", "mila-nano", "--at", "0,1"];
    let told = json(&scene, &attention);
    assert_eq!(told["at"], serde_json::json!([0.0, 1.0]));
    let of = |model: usize| &layers(&told["models"][model])[0]["values"];
    assert_ne!(of(0), of(1), "a trained model shows its own weights");
    assert_eq!(of(0).as_array().and_then(|rows| Some((rows.len(), rows[0].as_array()?.len()))), Some((16, 16)));
}

#[test]
fn tokens_by_row_and_column() {
    let scene = Scene::new();
    scene.picture("a.png", [20, 120, 240], 32);
    let csv = scene.ok(&[
        "inspect",
        "ablation-input-gate-32",
        "a.png",
        "--map",
        "input-gate",
        "--size",
        "32x16",
        "--format",
        "csv",
    ]);
    let mut lines = csv.lines();
    assert_eq!(lines.next(), Some("model,layer,row,column,value"));
    let last = lines.clone().last().expect("tokens");
    assert!(last.starts_with("ablation-input-gate-32,layers.2.blocks.0.attn,3,1,"), "{last}");
    // Grids of 16x8 tokens twice, 8x4 twice, and 4x2.
    assert_eq!(lines.count(), 2 * 128 + 2 * 32 + 8);
    let csv = scene.ok(&["inspect", "ablation-forget-gate-32", "a.png", "--map", "forget-gate", "--format", "csv"]);
    assert!(csv.starts_with("model,layer,scan,gate\nablation-forget-gate-32,layers.0.blocks.0.attn,0,0."), "{csv}");
}

#[test]
fn what_a_model_lacks_is_said_by_name() {
    let scene = Scene::new();
    scene.picture("a.png", [1, 2, 3], 32);
    let lacks = |model, map, has: &str| {
        let ran = scene.fails(&["inspect", model, "a.png", "--map", map, "--size", "32x32", "-o", "out.png"], 2, model);
        assert!(ran.stderr.contains(map) && ran.stderr.contains(has), "{}", ran.stderr);
    };
    lacks("mila-nano", "input-gate", "have: attention, token-norm");
    lacks("convnext-t", "attention", "have: token-norm");
    lacks("ablation-forget-gate-32", "input-gate", "have: forget-gate, attention, token-norm");
    let beside = ["inspect", "ablation-forget-gate-32", "a.png", "--map", "forget-gate", "--beside", "mila-nano"];
    scene.fails(&beside, 2, "no layer of mila-nano");
    assert!(!scene.path("out.png").exists(), "a picture of nothing");
}

#[test]
fn wrong_input_is_refused_before_anything_is_written() {
    let scene = Scene::new();
    scene.picture("a.png", [1, 2, 3], 32);
    std::fs::write(scene.path("text.png"), "no picture").expect("a file");
    let inspect =
        |image, rest: &[&'static str]| [&["inspect", "mila-nano", image, "--map", "token-norm"], rest].concat();
    scene.fails(&inspect("absent.png", &[]), 1, "absent.png");
    scene.fails(&inspect("text.png", &[]), 3, "text.png");
    for name in ["out.jpg", "out", ".png"] {
        scene.fails(&inspect("a.png", &["-o", name]), 2, ".png or .svg");
    }
    scene.fails(&inspect("a.png", &["-o", "no/such/folder/out.svg"]), 1, "out.svg");
    scene.fails(&inspect("a.png", &["--beside", "nothing-like-this"]), 2, "unknown architecture");
    let four = ["--beside", "mila-nano"].repeat(4);
    scene.fails(&[&inspect("a.png", &[])[..], &four].concat(), 2, "at most 3");
    scene.fails(&inspect("a.png", &["--at", "0.5"]), 2, "Y,X");
    scene.fails(&inspect("a.png", &["--at", "0.5,2"]), 2, "Y,X");
    scene.fails(&inspect("a.png", &["--size", "65535x65535"]), 2, "120 million");
    scene.fails(&["inspect", "mila-nano", "a.png"], 2, "--map");
    scene.fails(&["inspect", "vim-ti", "a.png", "--map", "token-norm", "--size", "64x64"], 2, "14x14");
}
