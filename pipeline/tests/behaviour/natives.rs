//! Every layout as its downloads are: nested, with stray files, and with odd names.

use dataset::source::Layout;

use crate::forms::{Files, collection};

/// What archives made on macOS hold beside the files.
const MACOS: (&str, &str) = ("__MACOSX/images/._0001.jpg", "leftover");

/// A layout, its files with the quirks of its downloads, and the names of its pairs.
pub(crate) struct Native {
    pub(crate) layout: Layout,
    pub(crate) files: Files,
    pub(crate) expected: &'static [&'static str],
}

fn native(
    layout: Layout,
    pairs: &[(&str, &str)],
    texts: &[(&str, &str)],
    expected: &'static [&'static str],
) -> Native {
    Native { layout, files: collection(pairs, texts), expected }
}

/// Every layout, with a few pairs of each.
pub(crate) fn natives() -> Vec<Native> {
    [saliency(), others(), own()].into_iter().flatten().collect()
}

fn saliency() -> Vec<Native> {
    vec![
        native(
            Layout::Ecssd,
            &[
                ("ECSSD/images/0001.JPG", "ECSSD/ground_truth_mask/0001.PNG"),
                ("ECSSD/images/0002.jpeg", "ECSSD/ground_truth_mask/0002.png"),
            ],
            &[MACOS, ("ECSSD/images/Thumbs.db", "x")],
            &["train 0001", "train 0002"],
        ),
        native(
            Layout::Duts,
            &[
                ("DUTS-TR/DUTS-TR-Image/n1_2.jpg", "DUTS-TR/DUTS-TR-Mask/n1_2.png"),
                ("DUTS-TE/DUTS-TE/DUTS-TE-Image/a.jpg", "DUTS-TE/DUTS-TE/DUTS-TE-Mask/a.png"),
            ],
            &[("DUTS-TE/DUTS-TE/DUTS-TE-Mask/msun_ bcogaqperiljqupq.jpg", "stray")],
            &["train DUTS-TE/a", "train DUTS-TR/n1_2"],
        ),
        native(
            Layout::Dis5k,
            &[
                (
                    "DIS5K/DIS-TR/im/1#Thin things#2#a b#3.jpg",
                    "DIS5K/DIS-TR/gt/1#Thin things#2#a b#3.png",
                ),
                ("DIS5K/DIS-TE4/im/%3F+é.jpg", "DIS5K/DIS-TE4/gt/%3F+é.png"),
            ],
            &[],
            &["test DIS-TE4/%3F+é", "train DIS-TR/1#Thin things#2#a b#3"],
        ),
        native(
            Layout::Fss1000,
            &[
                (
                    "fewshot_data/fewshot_data/abe's_flyingfish/1.jpg",
                    "fewshot_data/fewshot_data/abe's_flyingfish/1.png",
                ),
                (
                    "fewshot_data/fewshot_data/abacus/2.jpeg",
                    "fewshot_data/fewshot_data/abacus/2.png",
                ),
            ],
            &[("fewshot_data/fewshot_data/abacus/.DS_Store", "x")],
            &["train abacus/2", "train abe's_flyingfish/1"],
        ),
        native(
            Layout::Msra10k,
            &[
                ("MSRA10K_Imgs_GT/Imgs/1.jpg", "MSRA10K_Imgs_GT/Imgs/1.png"),
                ("MSRA10K_Imgs_GT/Imgs/97915.jpg", "MSRA10K_Imgs_GT/Imgs/97915.png"),
            ],
            &[],
            &["train 1"],
        ),
    ]
}

fn others() -> Vec<Native> {
    vec![
        native(
            Layout::DutOmron,
            &[("DUT-OMRON-image/sun_a.jpg", "pixelwiseGT-new-PNG/sun_a.png")],
            &[MACOS],
            &["train sun_a"],
        ),
        native(
            Layout::ThinObject5k,
            &[
                ("ThinObject5K/images/a.b.jpg", "ThinObject5K/masks/a.b.png"),
                ("ThinObject5K/images/c d.jpg", "ThinObject5K/masks/c d.png"),
            ],
            &[
                ("ThinObject5K/list/train.txt", "a.b.png\r\n\r\n"),
                ("ThinObject5K/list/test.txt", "c d\r\n"),
            ],
            &["test c d", "train a.b"],
        ),
        native(
            Layout::Big,
            &[
                ("BIG/val/x_1_im.jpg", "BIG/val/x_1_gt.png"),
                ("BIG/test/y_im.jpg", "BIG/test/y_gt.png"),
            ],
            &[("BIG/test/y_seg.png", "another model's")],
            &["test y", "val x_1"],
        ),
    ]
}

fn own() -> Vec<Native> {
    let instances = r##"{"images": [{"id": 1, "file_name": "a #1.jpg", "height": 50, "width": 60}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [
          {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0,
           "segmentation": [[10, 10, 40, 12, 38, 41.5]]},
          {"id": 2, "image_id": 1, "category_id": 1, "iscrowd": 1,
           "segmentation": {"size": [50, 60], "counts": [100, 200, 2700]}}]}"##;
    vec![
        native(
            Layout::Custom,
            &[("photos/x/ä.JPG", "labels/x/ä_gt.PNG"), ("photos/2.jpg", "labels/2_gt.png")],
            &[],
            &["train 2", "train x/ä"],
        ),
        native(
            Layout::Csv,
            &[("im/1.jpg", "gt/one.png"), ("im/2.jpg", "gt/two.png")],
            &[(
                "pairs.csv",
                "image,mask,split,class\r\nim/1.jpg,gt/one.png,val,a\r\nim/2.jpg,gt/two.png,,\r\n",
            )],
            &["train im/2", "val im/1"],
        ),
        native(
            Layout::Jsonl,
            &[("im/1.jpg", "gt/one.png")],
            &[("pairs.jsonl", "{\"image\": \"im/1.jpg\", \"mask\": \"gt/one.png\"}\r\n")],
            &["train im/1"],
        ),
        native(
            Layout::Coco,
            &[("train2017/a #1.jpg", "unused/1.png")],
            &[("annotations/instances_train2017.json", instances)],
            &["train a #1/1"],
        ),
    ]
}
