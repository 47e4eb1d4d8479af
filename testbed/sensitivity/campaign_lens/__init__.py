"""The fault lens over a campaign: where faults are absorbed, take over and are repaired, with intervals."""
