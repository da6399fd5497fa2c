# SPDX-License-Identifier: BSD-2-Clause
# Image formats, in every form.
SRC_ALL += formats/raw.c
