"""Run ComfyUI's own sampling code, one prediction or a whole picture."""

import comfy.samplers
import torch


class _Once(comfy.samplers.Sampler):
    """A sampler that asks for one prediction and returns it."""

    def sample(
        self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, denoise_mask=None, disable_pbar=False
    ):
        return model_wrap(noise, sigmas[:1].expand(noise.shape[0]), **extra_args)


class _Twice(_Once):
    """Asks for the same prediction twice and returns the second one."""

    def sample(self, *given, **more):
        super().sample(*given, **more)
        return super().sample(*given, **more)


def guider(model, positive, negative=None, cfg=5.0):
    """ComfyUI's own guider."""
    made = comfy.samplers.CFGGuider(model)
    made.set_conds(positive, negative if negative is not None else positive)
    made.set_cfg(cfg)
    return made


def sigma_at(model, timestep):
    """Noise level of a training step, float tensor []."""
    return model.get_model_object("model_sampling").sigmas[timestep]


def predict(guider, picture, sigma, twice=False):
    """The guider's clean picture for a noisy one at a noise level; `twice`: the second time that it is asked."""
    sigmas = torch.stack([sigma, torch.zeros(())])
    out = guider.sample(
        picture, torch.zeros_like(picture), _Twice() if twice else _Once(), sigmas, disable_pbar=True, seed=0
    )
    return guider.model_patcher.model.process_latent_in(out)


def sample(
    guider, shape, steps=4, seed=0, sampler="euler", scheduler="normal", latent=None, denoise_mask=None, callback=None
):
    """A whole run from seeded noise."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    model = guider.model_patcher
    schedule = comfy.samplers.KSampler(model, steps, model.load_device, sampler, scheduler, 1.0, model.model_options)
    latent = torch.zeros(shape) if latent is None else latent
    return guider.sample(
        noise,
        latent,
        comfy.samplers.sampler_object(sampler),
        schedule.sigmas,
        denoise_mask=denoise_mask,
        callback=callback,
        disable_pbar=True,
        seed=seed,
    )


def diffusers_prediction(unet, picture, sigma, timestep, prompts):
    """Noise as diffusers predicts it, one row a prompt, as ComfyUI's clean picture."""
    scaled = picture / (sigma**2 + 1) ** 0.5
    rows = len(prompts)
    sizes = torch.tensor([[512, 512, 0, 0, 512, 512]] * rows)
    with torch.no_grad():
        noise = unet(
            scaled.expand(rows, -1, -1, -1),
            timestep,
            encoder_hidden_states=torch.cat([prompt[0][0] for prompt in prompts]),
            added_cond_kwargs={
                "text_embeds": torch.cat([prompt[0][1]["pooled_output"] for prompt in prompts]),
                "time_ids": sizes,
            },
        ).sample
    return picture - noise * sigma


def left_and_right(height, width):
    """Masks of both halves, [1, H, W] each."""
    left = torch.zeros(1, height, width)
    left[:, :, : width // 2] = 1
    return left, 1 - left


def tiled(model, batched, size=8):
    """A model whose UNet sees tiles, as tiling packs do it: one tile a call, or all tiles in one batch [tile][row]."""
    tiled = model.clone()

    def wrapper(apply_model, args):
        x, t, c = args["input"], args["timestep"], args["c"]
        corners = [(top, left) for top in (0, 4, 8) for left in (0, 4, 8)]
        pieces = [x[..., top : top + size, left : left + size] for top, left in corners]
        if batched:
            many = {k: v.repeat(len(pieces), *[1] * (v.ndim - 1)) if torch.is_tensor(v) else v for k, v in c.items()}
            outs = apply_model(torch.cat(pieces), t.repeat(len(pieces)), **many).chunk(len(pieces))
        else:
            outs = [apply_model(piece, t, **c) for piece in pieces]
        total, count = torch.zeros_like(x), torch.zeros_like(x)
        for (top, left), out in zip(corners, outs, strict=True):
            total[..., top : top + size, left : left + size] += out
            count[..., top : top + size, left : left + size] += 1
        return total / count

    tiled.set_model_unet_function_wrapper(wrapper)
    return tiled
