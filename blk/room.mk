# SPDX-License-Identifier: BSD-2-Clause
# The block graph, in every form.
SRC_ALL += blk/disk.c blk/export.c blk/flush.c blk/io.c blk/node.c blk/null.c blk/open.c \
           blk/origin.c blk/pieces.c blk/status.c blk/track.c blk/truncate.c blk/volume.c blk/zeroes.c
