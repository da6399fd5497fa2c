/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/unit/support_peer.c"
