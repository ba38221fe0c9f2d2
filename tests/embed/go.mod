// Marks the folder as a module; what is built is pinned by v3.6.mod and v3.7.mod.
module retcd/tests/embed

go 1.26.0
