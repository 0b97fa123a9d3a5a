"""Credit where it is due: acknowledgements and BibTeX of what was used."""

from __future__ import annotations

__all__ = ["cite"]


def cite(*modalities: str, model: str | None = None) -> None:
    """Print acknowledgements and BibTeX of what was used.

    Parameters
    ----------
    modalities : str
        Modalities (gaia_xp) or surveys (gaia); all of them by default.
    model : str, optional
        Cite what this pretrained model (name, folder or hub id) was trained on.
    """
    from omnisky.surveys import modality, surveys

    names = list(modalities)
    if model is not None:
        from omnisky.pretrained import modalities_of, pretrained_folder

        names += modalities_of(pretrained_folder(model, part="words"))
    everything = surveys()
    chosen = [
        declared
        for name in names or everything
        for declared in (everything[name].modalities if name in everything else (modality(name),))
    ]
    wanted = {code: m.survey for m in chosen for code in m.bibcodes}
    print("% Acknowledgements\n")
    for survey in dict.fromkeys(m.survey for m in chosen):
        found = everything[survey]
        print(f"% {found.title} ({found.licence})\n{found.acknowledgement}\n")
    print("% BibTeX\n")
    for code, survey in wanted.items():
        print(f"{everything[survey].bibtex[code]}\n")
