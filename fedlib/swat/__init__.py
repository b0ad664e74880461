"""SWAT (paper W): find modules that hardly move the security feature space, warm them up first.

`probes` is the security feature space: fixed linear classifiers, a module's robustness, Mods_Rob,
drift; `modules` names the modules of a model, perturbs them, and trains only some of them. This
room imports training, models and settings.
"""
