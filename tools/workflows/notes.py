"""What the note in each workflow says: what it is for, and what to change first."""

from dhumandiff.miniature.design import SHIPPED, design_of

MINI_WIDTH, MINI_HEIGHT = design_of(SHIPPED).size

LOADED = """
**Models**: an SDXL checkpoint, CLIP ViT-H/14 (IP-Adapter's image encoder), the InsightFace pack buffalo_l, DHumanDiff's weights. Is something missing? Add the node *Doctor* and press **Run**."""
ON_FLUX = """
**Models** (the page offers those that are missing; where yours have other names, choose them):
- *diffusion_models*: FLUX.1 [dev]; also fp8, GGUF (its own loader), Krea, with any LoRA
- *text_encoders*: clip_l, t5xxl; *vae*: ae
- *withanyone*: withanyone.safetensors
- *clip_vision*: model.safetensors of google/siglip-base-patch16-256-i18n (Apache-2.0)
- *insightface/models/antelopev2*: InsightFace's pack

**Not for commercial use**: FLUX.1 [dev] and WithAnyone's weights are under the FLUX.1 [dev] Non-Commercial License (WithAnyone's for academic research alone), antelopev2 is for non-commercial research. Is something missing? Add the node *Doctor* and press **Run**."""
ON_PARTS = """
**Models** (the page offers the two files; where yours have other names, choose them):
- *dhumandiff/Parts2Whole*: the released folder, some 9 GB. In this pack's folder, with ComfyUI's Python: `python -m dhumandiff download --method parts2whole --to ../../models/dhumandiff`
- *checkpoints*: any Stable Diffusion 1.5, for its CLIP and VAE alone
- *clip_vision*: model.safetensors of openai/clip-vit-large-patch14

The model of *Load Parts2Whole* brings the noise schedule that it was trained with: no *ModelSampling* node, no other checkpoint's model. Weights: MIT; the Stable Diffusion 1.5 inside: CreativeML Open RAIL-M. Is something missing? Add the node *Doctor* and press **Run**."""
ON_MASKS = """**Masks**: without one the whole picture counts, its background too. *Open in Mask Editor*, paint over the garment, and connect MASK of *Load Image* with *mask* of *Encode Part*; or take the mask of any segmentation. Small parts too weak: *masked* in *Apply Parts* to *left out*, which is faster, too."""
ON_DUAL = """
*Apply Dual Pathway* is our reading of DP-Adapter, whose formulas are not public. The widgets show the preset's numbers; they count once *preset* is none. With DHumanDiff's weights its path of the words is untrained, which the node says."""
CONSENT = "Portraits of real people only with their leave."

NOTES = {
    "dual_portrait": f"""## Two photos and one sentence

**Change first**
1. **Photos**: one of each person. *About photo* says what is wrong with it.
2. **Sentence**: write word@1 and word@2 where a word means person 1 or person 2, person 1 first.
3. Press **Run**.

**Then**: faces not alike enough: *face_strength* up to 1.3. Words not followed: *scene_strength* down to 0.5. Wrong way round: *Swap Persons*. Too slow: 25 steps.
{LOADED}

{CONSENT}""",
    "wedding_preview": f"""## Ten pictures of a wedding to come

One couple, ten sentences. Each is tried four times, and the best try is saved: both people right first, then the faces most alike. Ten pictures are saved.

**Change first**
1. **Photos**: bride is person 1, groom person 2.
2. **One sentence a line**: yours. A # in front leaves a line out: begin with one or two. *after* is said of all of them: what both wear.
3. *batch_size* is the tries: 1 is four times as fast.

Say *on the left* and *on the right*: the score goes by it.
{LOADED}

{CONSENT}""",
    "parent_and_child": f"""## A parent and a child

Each has a place in the picture, so that a small and a large face do not get in each other's way.

**Change first**
1. **Photos**: the parent is person 1, the child person 2.
2. **Sentence**: mother, father, boy, girl ...
3. **Where they are**: drag the boxes; the child's is in front. A face outside of its box is nobody's: if one is not alike, make its box larger.

If the child looks too old, say *a five year old boy@2*, and lower *strength_2* a little.
{LOADED}

{CONSENT}""",
    "two_friends": f"""## Two of the same gender

The hardest pairs: the words alone do not tell them apart. Four things do: sides, colours of clothes, a place for each, and the best of four tries.

**Change first**
1. **Photos** of both.
2. **The sentence**: keep *on the left* and *on the right*, and give them clothes of different colours. Write *another woman@2*, not *two women*.
3. **Where they are**: drag the boxes if they shall stand otherwise.
{LOADED}

{CONSENT}""",
    "dual_pathway": f"""## Faces where faces count, words where words count

Inside of its box each face counts fully; outside of the boxes the sentence decides on clothes, place and light (*Apply Dual Pathway*, our reading of DP-Adapter). An ordinary sampler draws it in one run.

**Change first**
1. **Photos** of both.
2. **Sentence**: who wears what, and where they are.
3. **Where they are**: drag the boxes to where the two shall stand.

**Then**: words not followed: *text_strength* down to 0.1. Faces not alike enough: *identity_strength* up to 1.2. With DHumanDiff's weights the path of the words is untrained, which the node says.
{LOADED}

{CONSENT}""",
    "other_expression": f"""## Another expression than on the photos

The preset *another expression* lets the words have the first fifth of sampling, and finds the faces in the attention; the boxes say whose face is whose. Its numbers are reasoned, not measured. The picture beside this workflow, drawn by the miniature, was asked for a laugh and for closed eyes.

**Change first**
1. **Photos** of both.
2. **Sentence**: each person's expression in plain words: *laughing with closed eyes*, *looking surprised*.

The photo's expression stays: *preset* to none, *identity_strength* 0.7, *start* 0.3. Not alike: *start* 0.1.
{ON_DUAL}
{LOADED}

{CONSENT}""",
    "full_body": f"""## From a headshot to the full body

The preset *headshot to full body* counts the faces on 3 % of the picture, where the attention finds them; the sentence decides on all the rest: figure, clothes, shoes. Its numbers are reasoned, not measured.

**Change first**
1. **Photos** of both; a head is enough.
2. **Sentence**: say that the whole body is seen, and what is worn down to the shoes.
3. **Where they are**: boxes for whole people, not for faces.

Only busts are drawn: say *from head to shoes* first, and a place with a floor. Small faces come out coarse: *face_repair* draws them again. One person: take the second photo and reference away, *people* in *Where they are* to 1, and one name into the sentence.
{ON_DUAL}
{LOADED}

{CONSENT}""",
    "other_age": f"""## Older or younger than on the photos

Age shows in the shape of a face, which is decided early: the preset *another age* gives the words the first tenth of sampling, and the faces count 0.8. Its numbers are reasoned, not measured.

**Change first**
1. **Photos** of both, as they are now.
2. **Sentence**: the age in words: *an old man@1 of eighty*, *a girl@2 of six*. Gray hair and a child's clothes help.

As old as on the photo: *preset* to none, *identity_strength* 0.7, *start* 0.2. Not alike: *start* 0.
{ON_DUAL}
{LOADED}

{CONSENT}""",
    "old_photo_to_reality": f"""## From an old photo to a photo of today

What makes a photo old (tone, grain, light) lies around the face, where the words decide; the light of each photo is evened out first. The preset is *old photo to reality*; its numbers are reasoned, not measured. The same with DHumanDiff's cascade: *old_photos*.

**Change first**
1. **Photos**: scans as large as you can, the face at least 135 px wide.
2. **Sentence**: that it is a color photo of today, with clothes and a place of today.

Still gray or grainy: *preset* to none, *identity_strength* 0.8, *text_strength* 0, *end* 0.85. Not alike: *identity_strength* 1.
{ON_DUAL}
{LOADED}

{CONSENT}""",
    "fixed_poses": f"""## Both in poses that you choose

A drawing of two poses (OpenPose) goes into a ControlNet, stock nodes throughout; the pair says who is who.

**Change first**
1. **Photos** of both.
2. **Poses**: *two_poses.png* lies in this pack's folder *examples*; copy it to *ComfyUI/input*, or take any OpenPose drawing of two people. Person 1 stands where the sentence puts them.
3. **Sentence**.

*strength* of the ControlNet down when it looks stiff; *end_percent* down leaves the end to the faces.
{LOADED} And a ControlNet for SDXL poses.

{CONSENT}""",
    "style_lora": f"""## Both in a style

A LoRA for SDXL before the pair: the base paints in its style, the faces stay who they are.

**Change first**
1. **Photos** of both.
2. **LoRA**: any for SDXL; put the words that it was trained with into the sentence.
3. **Sentence**.

The style eats the faces: *strength_model* down, or *face_strength* up. The faces look like photos in a painting: *face_strength* down to 0.8, or *end* in *Apply Disparity-Aware Conditioning* to 0.8.
{LOADED} And a LoRA.

{CONSENT}""",
    "painted_regions": f"""## Where each may be, painted by hand

**Change first**
1. **Photos** of both.
2. **Regions**: in both *Paint where ...* nodes choose any picture of the portrait's shape (here a square; or *region_1.png*, *region_2.png* from this pack's folder *examples*). Right-click it, **Open in Mask Editor**, paint over the place of that person, save. *Region of person 1* shows white what was painted.
3. **Sentence**.

Painted is where a person may be: face, hair and body. Rather drag two boxes? *Portrait Layout*, as in *parent_and_child*.
{LOADED}

{CONSENT}""",
    "old_photos": f"""## From two old photographs

Worn, grey or yellowed photos make references too. Here their wear stays out of the new picture: the light of each is evened out, the faces count less outside of the faces (*scene_strength* 0.5) and not at all in the last steps (*end* 0.85), and the words ask for colour.

**Change first**
1. **Photos**: scans as large as you can, the face at least 135 px wide. Several photos of one person as a batch are better than one.
2. **Sentence**: clothes and place as you remember them.

Still grey: *scene_strength* 0.4. Not alike: *face_strength* 1.1, *end* 1.
{LOADED}

{CONSENT}""",
    "face_repair": f"""## Faces drawn again, twice as large

Small faces come out coarse. Here the result is enlarged, each face is found and told whose it is, and only the faces are drawn again, each with nobody but its own person. Outside of the masks not a pixel changes.

**Change first**
1. **Photos** of both.
2. **The sentence**: its sides or colours say whose face is whose.
3. *denoise* of the second sampler: 0.3 mends, 0.6 draws anew.

A picture that you have already: *Load Image* into *Enlarge*.
{LOADED}

{CONSENT}""",
    "compare_adapters": f"""## Two adapters side by side

The same two people, sentence and noise, with two adapters: left the first, right the other, a row a seed. Each face is boxed, named and scored.

**Change first**
1. **Photos** of both.
2. **Adapters**: the other one is IP-Adapter Plus Face; it has no subject path, so its sentence goes through *CLIP Text Encode* and each person gets a place. For one of your own, put *Encode Subject-Augmented Prompt* there.
3. **Sentence**, in both texts: with marks and without.
{LOADED} And [IP-Adapter Plus Face](https://huggingface.co/h94/IP-Adapter/tree/main/sdxl_models) in *models/ipadapter*.

{CONSENT}""",
    "custom_sampler": f"""## The cascade with any sampler

*Cascade Guider* is a guider like any other: here with DPM++ 2M, Karras and 25 steps in *SamplerCustomAdvanced*.

**Change first**
1. **Photos** of both, and the **sentence**.
2. **Sampler and schedule**: any of yours. For LCM, Lightning or Turbo: 4 to 8 steps, *cfg* 1.
3. **Strengths** in *Cascade Guider*: scene 0.7, faces 1.0; *mode* two_strength takes twice as long.
{LOADED}

{CONSENT}""",
    "ip_adapter_faces": f"""## With public weights alone

IP-Adapter Plus Face for SDXL (Apache-2.0) in the place of DHumanDiff's weights. It draws both people with one set of weights, so it is their **places** that keep them apart.

**Change first**
1. **Photos** of both.
2. **Where they are**: drag a box over each person's place.
3. **Sentence**, without marks: these weights have no subject path. Put people where their boxes are.

Faces too weak or too stiff: *face_strength* 0.7 to 1.1.

**Models**: an SDXL checkpoint, CLIP ViT-H/14, the InsightFace pack buffalo_l (it finds the faces in the photos), [IP-Adapter Plus Face](https://huggingface.co/h94/IP-Adapter/tree/main/sdxl_models) in *models/ipadapter*.

{CONSENT}""",
    "mini_dual_portrait": f"""## A portrait of two, in seconds, with nothing downloaded

Press **Run**: two drawn people become a portrait of both, with a small model that ships with this pack.

**Change first**
1. **Who**: another number in *Person 1* or *Person 2*. Another *view* is another photo of the same person.
2. **What they wear**: a colour (red, yellow, green, blue, purple, pink, white, black) and a dress, suit, shirt, hoodie or sweater.
3. **Where**: on a beach, in a forest, on a city street, in the snow, at sunset, in a living room, in a green field, at night.
4. **Swap Persons**: the other face on each side. *woman@1* and *man@2* say who is who.

The miniature knows drawn people, sentences like this one and pictures of {MINI_WIDTH} x {MINI_HEIGHT} px. For photos of real people open *dual_portrait*: all nodes but *Load Miniature* and *Draw Person* are the same there.""",
    "mini_score": """## Which of four is the best, and who is on it

Press **Run**: four portraits of two drawn people; the best is picked, its faces are named and scored, and each person's face gets a mask.

- **Pick Best Portrait**: both people right first, then the faces most alike.
- **Score Identity**: how alike each face is to its reference, and whether the face that should be somebody *is*. The sentence says who should be where (*on the left*, the colour of clothes); likeness never does.
- **Mask Faces by Person**: for a detailer, inpainting or colours of one person alone.

With photos of real people: the same three nodes behind *dual_portrait*; 0.4 is then a common least similarity.""",
    "withanyone_two": f"""## Two people on FLUX, each in a box

**Change first**
1. **Photos**: one of each person.
2. **Sentence**, in whole sentences and without marks. Say hair, age, skin and clothes of each: the slider below leaves them to the words.
3. **Where the faces are**: drag a box to where each **face** shall be; box 1 is person 1's. The boxes follow the picture's size.
4. Press **Run**.

**The slider**: *form* in *Apply WithAnyone*. 0, in spirit: who it is; expression, hair and age follow the words. 1, in form: like the photo. Not alike: up, or a larger box. Looks pasted: down.
{ON_FLUX}

{CONSENT}""",
    "withanyone_four": f"""## Four people on FLUX

**Change first**
1. **Photos**: one of each.
2. **Sentence**: say everybody from left to right, in the order of the boxes, with hair, age and clothes.
3. **Where the faces are**: drag the boxes. Keep them apart: where two overlap, both faces mix.

Three people: take the fourth photo and reference away, and set *people* to 3. One face too weak or too stiff: *strength_1* to *strength_4*.

**The slider**: *form*. 0, in spirit: expression, hair and age follow the words. 1, in form: like the photo.
{ON_FLUX}

{CONSENT}""",
    "withanyone_parity": f"""## Sampled as WithAnyone was published

The same as *withanyone_two*, with all that its authors' code samples with: to compare with their pictures, or to look for a fault.

- *A constant shift*: the shift of their schedule at 1024 x 1024, .4675, at both ends; it stays so at other sizes (theirs goes down to .4594 at 512 x 512).
- *T5 reads 512 tokens*: the sentence is filled up to 512.
- euler, scheduler simple, 25 steps, guidance 4, CFG 1.
- Weights as FLUX and T5 were published (bf16, fp16), not fp8.

Noise and rounding are not theirs: no picture will be the same to the pixel.

**Change first**
1. **Photos**, **sentence** and **boxes**, as in *withanyone_two*.
2. *form*: 0 is their "in spirit", 1 their "in form".
{ON_FLUX}

{CONSENT}""",
    "withanyone_kontext": f"""## Other faces in a photo, by FLUX.1 Kontext

**Change first**
1. **Photos**: one of each person whose face goes in.
2. **Photo to edit**: press **Run** once: it appears behind the boxes of *Where the faces are*. Drag a box over each face, that of person 1 first. With one person, take the second photo and reference away, and set *people* to 1.
3. **Sentence**: what the picture shows, in a few words.

The faces in the boxes are blurred before Kontext sees the photo, as WithAnyone's own editor does it, so that the old ones do not come through. Less blur keeps more of the head's pose: *sigma* down.

**Weights**: WithAnyone.Ke.preview, the file for edits, from huggingface.co/WithAnyone/WithAnyone, in *models/withanyone*; choose it by the name that it has there. It has one half of the weights, so *form* stays 0. *diffusion_models*: FLUX.1 Kontext [dev].
{ON_FLUX}

{CONSENT}""",
    "parts_one": f"""## One person from a face, a jacket and trousers

**Change first**
1. **Parts**: a face photo, a picture of the jacket, one of the trousers. Another garment: choose what it is in *part*. One more: copy a *Load Image* and an *Encode Part*, and put it into the chain (six at most).
2. **Pose map**: a DensePose map as raw IUV (blue is the number of the body part, nearly black), of the picture's shape. detectron2's DensePose makes it (`apply_net.py dump`). Skeletons, and the false colors of ControlNet's DensePose Estimator, are refused. None at hand: take its *Load Image* away.
3. **Sentence**: who, with what on, where. Press **Run**.

{ON_MASKS}

A part is computed once for a size; a new seed or sentence keeps them all. Size: 512 x 768 as trained, set once for all in *Width* and *Height*. Parts too weak: *strength* in *Encode Part* up.
{ON_PARTS}

{CONSENT}""",
    "parts_wedding": f"""## Bride and groom, each in their own clothes

**Change first**
1. **The bride** and **the groom**: both faces, the veil, the dress, the suit. *person* in *Encode Part* says whose a part is.
2. **Where each stands**: drag the boxes; box 1 is the bride's. Inside it the groom's parts are never read, and outside of both boxes nobody's.
3. **Sentence**: both, from left to right, and where they are. Press **Run**.

{ON_MASKS}

Boxes that overlap: the node says where, and who is drawn there. A pose map of two people (DensePose, raw IUV) fits into *pose*. Up to six parts each. The weights were trained with one person at 512 x 768; two are this project's addition, and *Width* and *Height* are for all nodes.
{ON_PARTS}

{CONSENT}""",
}
