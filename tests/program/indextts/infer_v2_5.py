"""Version 2.5, likewise."""

from indextts import speaking


class IndexTTS2:
    def __init__(
        self,
        cfg_path="checkpoints/config.yaml",
        model_dir="checkpoints",
        use_bf16=False,
        device=None,
        use_cuda_kernel=None,
        use_deepspeed=False,
        use_accel=False,
        use_torch_compile=False,
        use_qwen_emo=False,
    ):
        speaking.note(made={name: value for name, value in locals().items() if name != "self"})
        self.gpt = speaking.network()
        self.gr_progress = None

    def infer(
        self,
        spk_audio_prompt,
        text,
        output_path,
        lang,
        emo_audio_prompt=None,
        emo_alpha=1.0,
        emo_vector=None,
        use_emo_text=False,
        emo_text=None,
        use_random=False,
        interval_silence=200,
        verbose=False,
        max_text_tokens_per_segment=120,
        stream_return=False,
        more_segment_before=0,
        duration_factor=1.0,
        text_normalization=True,
        **generation_kwargs,
    ):
        speaking.note(**{name: value for name, value in locals().items() if name != "self"})
        speaking.speak(self.gpt, text, output_path)
        return output_path
