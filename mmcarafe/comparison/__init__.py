# SPDX-License-Identifier: Apache-2.0
"""Trainings that differ in the upsampler alone, and what their differences are worth; docs/evidence.md."""
