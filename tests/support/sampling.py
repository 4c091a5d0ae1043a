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
