package clients

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// leftOut names what the library exports and these tests do not use: docs/testing.md gives the reasons.
var leftOut = []string{
	"ClientLogLevel", "ContextError", "ErrNoWatcher", "ErrWaitMismatch", "LeaseResponseChSize", "NewOp", "OpCompact", "ServerName", "SetLogger",
}

// TestNothingIsLeftOut compares what the library's packages export with the names that these tests use. A name that two of them have
// counts for both: this finds what was never thought of, not what is tested too little.
func TestNothingIsLeftOut(t *testing.T) {
	source := addresses(t, "ETCD_CLIENT_SOURCE")[0]
	exported := map[string]bool{}
	err := filepath.WalkDir(source, func(path string, entry fs.DirEntry, err error) error {
		succeeds(t, err)
		if entry.IsDir() {
			if slices.Contains([]string{"internal", "mock", "testdata"}, entry.Name()) {
				return fs.SkipDir
			}
			return nil
		}
		if strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") {
			for _, name := range exportedBy(parsed(t, path)) {
				exported[name] = true
			}
		}
		return nil
	})
	succeeds(t, err)
	used := map[string]bool{}
	tests, err := filepath.Glob("*_test.go")
	succeeds(t, err)
	for _, path := range tests {
		ast.Inspect(parsed(t, path), func(node ast.Node) bool {
			if name, isName := node.(*ast.Ident); isName {
				used[name.Name] = true
			}
			return true
		})
	}
	var forgotten, stale []string
	for name := range exported {
		if !used[name] && !slices.Contains(leftOut, name) {
			forgotten = append(forgotten, name)
		}
	}
	for _, name := range leftOut {
		if !exported[name] || used[name] {
			stale = append(stale, name)
		}
	}
	slices.Sort(forgotten)
	holds(t, fmt.Sprintf("there is something to compare: %d names exported, %d used", len(exported), len(used)), len(exported) > 200 && len(used) > 200)
	equal(t, "neither used nor left out", forgotten, nil)
	equal(t, "left out, but used or not exported", stale, nil)
}

func parsed(t *testing.T, path string) *ast.File {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	succeeds(t, err)
	return file
}

// exportedBy lists functions, methods (of interfaces too), variables, and what settings are made of. Types and constants are left to
// the functions that take and give them.
func exportedBy(file *ast.File) []string {
	var names []string
	add := func(all ...*ast.Ident) {
		for _, name := range all {
			if name.IsExported() {
				names = append(names, name.Name)
			}
		}
	}
	for _, declaration := range file.Decls {
		switch declared := declaration.(type) {
		case *ast.FuncDecl:
			// Methods of types that are not exported are those of the interfaces that they stand behind.
			if declared.Recv == nil || ast.IsExported(receiver(declared)) {
				add(declared.Name)
			}
		case *ast.GenDecl:
			for _, spec := range declared.Specs {
				switch spec := spec.(type) {
				case *ast.ValueSpec:
					if declared.Tok == token.VAR {
						add(spec.Names...)
					}
				case *ast.TypeSpec:
					if !spec.Name.IsExported() {
						continue
					}
					switch kind := spec.Type.(type) {
					case *ast.InterfaceType:
						for _, method := range kind.Methods.List {
							add(method.Names...)
						}
					case *ast.StructType:
						if isSetting(spec.Name.Name) {
							for _, field := range kind.Fields.List {
								add(field.Names...)
							}
						}
					}
				}
			}
		}
	}
	return names
}

func isSetting(name string) bool {
	return slices.ContainsFunc([]string{"Config", "ConfigSpec", "Options"}, func(end string) bool { return strings.HasSuffix(name, end) })
}

// receiver is the name of the type that a method belongs to.
func receiver(method *ast.FuncDecl) string {
	kind := method.Recv.List[0].Type
	if pointer, isPointer := kind.(*ast.StarExpr); isPointer {
		kind = pointer.X
	}
	if name, isName := kind.(*ast.Ident); isName {
		return name.Name
	}
	return ""
}
