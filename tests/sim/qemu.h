/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TESTS_SIM_QEMU_H
#define TESTS_SIM_QEMU_H
/*
 * qemu-img as an oracle, for a sample of the states: each run of it costs as much as a hundred of
 * ours. Files go to a folder of this process, below $TMPDIR.
 */
#include "tests/sim/subject.h"

/* Writes the media to files: now, before anybody opens them. */
void qemu_save(void);
/* `check` must find no corruption in what was saved, and `convert` give `content`. NULL, or what it
 * said. The sentence lies in h. */
const char *qemu_judge(const struct subject *s, const uint8_t *content, struct heap *h);
/* Runs qemu-img with these words on the saved files, and puts them back on the media. For
 * `snapshot`. NULL, or what it said. */
const char *qemu_change(const char *words, struct heap *h);
/* Removes the folder. */
void qemu_end(void);
#endif
