"""An attack is in the name and in the key of a run's folder."""

from fedlib import attack
from fedlib.lab import keys

PARTS = {
    "unaligned": "3of10x0.5-sampled",
    "generated": "3of10x0.5-generated-",
    "conflicting": "3of10-conflicting-",
    "boosted": "3of10-boosted-tokens0.1-",
}


def under(settings, name):
    changes = {"attack": name}
    if name == "boosted":  # the malicious clients hold the poison
        poison = {"trigger": "tokens", "share": 0.1, "clients": settings.federation.malicious}
        changes["poison"] = poison
    return settings.replace(data=changes)


def test_a_runs_folder_says_which_attack_it_is(smoke):
    assert set(PARTS) == set(attack.ATTACKS)
    names = {name: keys.run_folder(under(smoke, name)).name for name in PARTS}
    for name, part in PARTS.items():
        assert part in names[name]
    assert len({name[-12:] for name in names.values()}) == 4


def test_without_malicious_clients_the_attack_is_in_no_key(smoke):
    calm = smoke.replace(federation={"malicious": 0})
    quiet = [name for name in PARTS if name != "boosted"]
    assert len({keys.run_folder(under(calm, name)) for name in quiet}) == 1
