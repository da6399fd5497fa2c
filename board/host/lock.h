/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BOARD_HOST_LOCK_H
#define BOARD_HOST_LOCK_H
/*
 * Locks that keep a second writer away from an image, as QEMU's programs take them; see lock.c. They
 * last until `fd` is closed. share: others may write. SR_EBUSY with err: somebody else uses the image.
 */
#include "kernel/error.h"

enum locking { LOCKING_AUTO, LOCKING_ON, LOCKING_OFF };
int image_lock(int fd, bool writable, bool share, enum locking how, const char *name,
               struct error *err);
#endif
