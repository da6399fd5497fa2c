/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef KERNEL_VERSION_H
#define KERNEL_VERSION_H
/* Our version, from the Makefile, and the QEMU release whose schema and sentences we follow. */
#ifndef SR_VERSION
#define SR_VERSION "unknown"
#endif
#define STRONGROOM_VERSION SR_VERSION
#define QEMU_SCHEMA_MAJOR  7
#define QEMU_SCHEMA_MINOR  2
#define QEMU_SCHEMA_MICRO  22
#endif
